"""The least time of the Triton kernels on a GPU, by memory and by the instructions that they execute, beside what was measured."""

from typing import Any

import pandas as pd

from unified_extractor.benchmarks.cases import gpu_cases
from unified_extractor.ops.backends.triton.roofline import SAMPLE, backward_bytes, forward_bytes, samples
from unified_extractor.ops.call import Call
from unified_extractor.results.markdown import as_markdown

MULTIPROCESSORS, CLOCK, LANES = 132, 1.98e9, 128
"""An H100: its multiprocessors, its clock in Hz, and the threads for which a multiprocessor issues an instruction in each cycle."""
PASSES = ("forward", "backward")
_NOTES = """# What binds the Triton kernels on a GPU

Written by `uniex bench floors` from [`triton_code.json`](triton_code.json) and [`gpu.json`](gpu.json). **The floors are predicted: the
kernels of today have not run on a GPU.** bfloat16, batch {batch}, channels last, microseconds (us) of an H100.

* *HBM*: all inputs read and all results written once, at the rate of a copy on the machine of `gpu.json`, {rate:.0f} GB/s.
* *issue*: the instructions that Triton {triton}'s machine code executes for each output, at 128 threads a cycle on {processors}
  multiprocessors of {clock} GHz. They were counted at one size of each operator and are taken for all its sizes.
* *additions*: float32 additions to memory, in millions. Their rate is not measured yet.
* *binds*: the larger of both floors, and the additions where there are any. The first and second caches are not predicted: the
  banded kernels of involution load their dynamic kernel 2 bytes at a time, so the first cache may bind them. `make gpu` reads the counters.
* *measured before*: the kernels before these, on the H100 of `gpu.json`. Backward is the difference of two medians, and has what the CPU
  needs to start the kernels.

A generated involution makes its kernel by chunks of the batch and runs the same kernels on it. Its floors are those of the involution
without the dynamic kernel's bytes, and two matrix products more. The matrix products of a dense static kernel (DCNv2) are a library's:
their instructions are not counted, and the columns that they read are taken to stay in the second cache.

"""


def markdown(code: dict[str, Any], gpu: dict[str, Any]) -> str:
    """Return the page of floors.

    Args:
        code: the content of ``triton_code.json``.
        gpu: the content of ``gpu.json``.
    """
    rows = code["now"]["kernels"]
    triton = max({row["triton"] for row in rows}, key=lambda version: [int(part) for part in version.split(".")])
    instructions = _instructions(rows, triton)
    measured = {case["name"]: case["candidates"]["unified_extractor"] for case in gpu["cases"]}
    table = []
    for name, make in gpu_cases(gpu["batch"], "meta").items():
        call, operator = make().call, name.split()[0]
        if call is not None and (operator, "forward") in instructions and name.endswith("bfloat16"):
            times = _before(measured.get(name))
            for which in PASSES:
                table.append(
                    _row(name.removesuffix(" bfloat16"), which, call, instructions[operator, which], gpu, times.get(which))
                )
    notes = _NOTES.format(
        batch=gpu["batch"],
        rate=gpu["machine"]["peak_bytes_per_second"] / 1e9,
        triton=triton,
        processors=MULTIPROCESSORS,
        clock=CLOCK / 1e9,
    )
    return notes + as_markdown(pd.DataFrame(table))


def _instructions(rows: list[dict[str, Any]], triton: str) -> dict[tuple[str, str], float]:
    """Return the instructions for each output of a call, by its name and pass, all kernels of the pass together."""
    found: dict[tuple[str, str], float] = {}
    for row in rows:
        if (row["triton"], row["dtype"], row["layout"]) == (triton, "bfloat16", "channels_last"):
            key = (row["call"], row["pass"])
            found[key] = found.get(key, 0.0) + row["instructions"]
    return found


def _before(candidate: dict[str, Any] | None) -> dict[str, float]:
    """Return the measured microseconds of both passes; none where the case has not run."""
    if candidate is None:
        return {}
    forward, both = (candidate[name]["median"] for name in ("forward_ms", "forward_backward_ms"))
    return {"forward": 1000 * forward, "backward": 1000 * (both - forward)}


def _row(case: str, which: str, call: Call, instructions: float, gpu: dict[str, Any], before: float | None) -> dict[str, str]:
    output = call.x.new_empty(call.output_shape())
    inputs = [tensor for tensor in (call.x, call.static_kernel, call.stored_kernel, call.offsets) if tensor is not None]
    traffic = forward_bytes(inputs, output) if which == "forward" else backward_bytes(inputs, output, inputs)
    memory = 1e6 * traffic / gpu["machine"]["peak_bytes_per_second"]
    issue = 1e6 * instructions * output.numel() / (LANES * MULTIPROCESSORS * CLOCK)
    additions = SAMPLE * samples(call) if which == "backward" and call.offsets is not None else 0
    binds = "HBM" if memory >= issue else "issue"
    return {
        "case": case,
        "pass": which,
        "HBM, us": f"{memory:.0f}",
        "issue, us": f"{issue:.0f}",
        "additions": f"{additions / 1e6:.0f}" if additions else "-",
        "binds": f"{binds} or additions" if additions else binds,
        "measured before, us": "-" if before is None else f"{before:.0f}",
        "before / floor": "-" if before is None else f"{before / max(memory, issue):.1f}",
    }
