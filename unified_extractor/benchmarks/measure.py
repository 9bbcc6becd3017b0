"""Values first, then times and memory: all candidates in one process, taking turns."""

import ctypes
import gc
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unified_extractor.benchmarks.cases import OURS, Candidate, Case

TOLERANCE = 1e-3
"""Largest difference of any value, relative to the largest magnitude of its tensor, at which times are reported."""


class ValuesDifferError(RuntimeError):
    """Two candidates do not compute the same; their times would mean nothing."""


def measured(name: str, case: Case, repeats: int) -> dict[str, Any]:
    """Compare the candidates' values, then time them in turns.

    Returns:
        The name, and for every candidate: milliseconds of forward and of forward plus backward (median, 20th and 80th
        percentile), the bytes it holds at most beside its inputs, its largest relative difference from ours, and how many times
        longer than ours it takes.

    Raises:
        ValuesDifferError: a difference above :data:`TOLERANCE`.
    """
    differences = _differences(name, case)
    forward: dict[str, list[float]] = {rival: [] for rival in case.candidates}
    both: dict[str, list[float]] = {rival: [] for rival in case.candidates}
    for _ in range(repeats):
        for rival, candidate in case.candidates.items():
            both[rival].append(_milliseconds(candidate.step))
            with torch.no_grad():
                forward[rival].append(_milliseconds(candidate.forward))
    ours = np.median(both[OURS])
    rows = {
        rival: {
            "forward_ms": _spread(forward[rival]),
            "forward_backward_ms": _spread(both[rival]),
            "peak_bytes": peak_bytes(candidate),
            "largest_difference": differences[rival],
            "times_ours": round(float(np.median(both[rival]) / ours), 2),
        }
        for rival, candidate in case.candidates.items()
    }
    results = case.candidates[OURS].step()
    return {
        "name": name,
        "multiply_adds": case.multiply_adds,
        "input_bytes": _bytes(case.inputs),
        "result_bytes": _bytes(results),
        "candidates": rows,
    }


def _differences(name: str, case: Case) -> dict[str, float | None]:
    """Largest relative difference from ours of any value; None where values are not comparable."""
    found: dict[str, float | None] = {}
    expected: list[Tensor] = []
    for rival, candidate in case.candidates.items():
        candidate.step()  # the first call of each, so that none is timed compiling
        values = [value.detach().clone() for value in candidate.values()] if candidate.values else None
        expected = expected or values or []
        found[rival] = None
        if values is not None:
            largest = max(_difference(value, reference) for value, reference in zip(values, expected, strict=True))
            if not largest <= TOLERANCE:
                raise ValuesDifferError(f"{name}: {rival} differs from {OURS} by {largest:.2g}, more than {TOLERANCE}")
            found[rival] = largest
    return found


def _difference(value: Tensor, reference: Tensor) -> float:
    return ((value - reference).abs().max() / reference.abs().max().clamp(min=1e-30)).item()


def _milliseconds(compute: Callable[[], object]) -> float:
    start = time.perf_counter()
    compute()
    return 1000 * (time.perf_counter() - start)


def _spread(times: Sequence[float]) -> dict[str, float]:
    low, median, high = np.percentile(times, [20, 50, 80])
    return {"median": round(float(median), 3), "p20": round(float(low), 3), "p80": round(float(high), 3)}


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def peak_bytes(candidate: Candidate) -> int | None:
    """How far the process grows during a step, whoever allocates; None where the system does not tell (it does on Linux)."""
    try:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # give back what earlier steps left, or it would not be counted
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        candidate.step()
        return _status("VmHWM") - before
    except (OSError, AttributeError):
        return None


def _status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def machine() -> dict[str, Any]:
    """Where and with what was measured, and two limits of the machine: multiply-adds and bytes a second."""
    names = ("torch", "torchvision", "numba", "llvmlite", "numpy", "unified-extractor")
    return {
        "device": _processor(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in names},
        "peak_multiply_adds_per_second": _matrix_rate(),
        "peak_bytes_per_second": _copy_rate(),
    }


def _matrix_rate(size: int = 1536) -> float:
    a, b = torch.randn(size, size), torch.randn(size, size)
    return round(size**3 / min(_milliseconds(lambda: a @ b) for _ in range(10)) * 1000)


def _copy_rate(size: int = 2**27) -> float:
    source, target = torch.zeros(size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)
    return round(2 * size / min(_milliseconds(lambda: target.copy_(source)) for _ in range(10)) * 1000)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
