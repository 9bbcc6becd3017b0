"""Compiling the kernels of the cases and of the checked values ahead, one process a core: they are found in Triton's cache later."""

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from unified_extractor.benchmarks.cases import gpu_cases
from unified_extractor.ops.call import Call


def run(folder: Path, toy: bool) -> None:
    """Compile all kernels in all configurations; nothing in Triton's interpreter, which compiles none."""
    if toy:
        return
    names = list(gpu_cases(2, "cpu", compiler=None))
    workers = max(min(os.cpu_count() or 1, len(names)), 1)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for name, reason in zip(names, pool.map(_compile, names), strict=True):
            print(name, reason or "compiled", file=sys.stderr, flush=True)


def _compile(name: str) -> str:
    """Compile the kernels of a case, and return why that failed; what is missing is compiled where it is used."""
    torch.set_num_threads(1)
    try:
        from unified_extractor.benchmarks.machine_code.offline import compile_calls

        call = gpu_cases(2, "cpu", compiler=None)[name]().call
        assert isinstance(call, Call)
        major, minor = torch.cuda.get_device_capability()
        compile_calls([({"call": name}, call)], 10 * major + minor, defaults=False, walk=False, show=None)
    except Exception as error:  # this part only saves time, so nothing may end because of it
        return f"{type(error).__name__}: {str(error).splitlines()[:1]}"
    return ""
