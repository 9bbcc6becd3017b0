"""A result file as tables for people. Every number comes from the file, or for the plan from shapes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from unified_extractor.benchmarks.cases import OURS, Case
from unified_extractor.ops.backends.triton.roofline import H200, kernels, limits, step_bytes, stored_step_bytes, traffic
from unified_extractor.results.tables import as_markdown

_COLUMNS = (
    "The machine's rates allow a pass no less time than every multiply-add once, its inputs read once and its results written once. "
    "The columns in % say how much of a candidate's time that is; backward is what a step takes beyond forward. Difference: the "
    "largest of any value, relative to the largest magnitude of its tensor; in float32 from ours, in bfloat16 from the plain "
    "formulation in float32.\n"
)
_LONGEST, _NAME = 5, 40
"""Kernels that a case's line has, and characters of their names."""
_NO_TIMES = ("forward ms", "both ms", "20-80 %", "x ours", "peak MB")


def limit_milliseconds(case: dict[str, Any], machine: dict[str, Any]) -> float | None:
    """What forward plus backward would take at the machine's measured rates: each multiply-add once, each tensor moved once.

    Where the file states passes, inputs are moved in both.
    """
    if floors := pass_floors(case, machine):
        return sum(floors.values())
    if not case["multiply_adds"]:
        return None
    arithmetic = case["multiply_adds"] / machine["peak_multiply_adds_per_second"]
    return 1000 * max(arithmetic, (case["input_bytes"] + case["result_bytes"]) / machine["peak_bytes_per_second"])


def pass_floors(case: dict[str, Any], machine: dict[str, Any]) -> dict[str, float]:
    """Milliseconds of each pass, "forward" and "backward", at the machine's measured rates; empty where the file does not state them."""
    rate = machine["peak_multiply_adds_per_second"]
    rate = rate[case["dtype"]] if isinstance(rate, dict) else rate
    return {
        name: 1000 * max(work["multiply_adds"] / rate, work["bytes"] / machine["peak_bytes_per_second"])
        for name, work in case.get("passes", {}).items()
    }


def fractions(row: dict[str, Any], floors: dict[str, float]) -> dict[str, float]:
    """How much of its time a candidate would need at the machine's rates: forward, backward (the rest of the step) and both."""
    forward, both = row["forward_ms"]["median"], row["forward_backward_ms"]["median"]
    found = {"forward": floors["forward"] / forward, "both": sum(floors.values()) / both}
    return found | ({"backward": floors["backward"] / (both - forward)} if both > forward else {})


def as_table(case: dict[str, Any], floors: dict[str, float]) -> pd.DataFrame:
    """One row a candidate, all text: median milliseconds, their spread, how many times ours, megabytes beside the inputs.

    Where passes are stated, also the fraction of the machine's rates that each reaches, and the largest difference of any value.
    """
    rows = []
    for name, row in case["candidates"].items():
        if "failed" in row:
            rows.append({"": f"{name}: {row['failed'].replace('|', '/')}"} | dict.fromkeys(_NO_TIMES, "-"))
            continue
        both, peak, difference = row["forward_backward_ms"], row["peak_bytes"], row["largest_difference"]
        digits = 3 if both["median"] < 1 else 2
        text = {
            "": name,
            "forward ms": f"{row['forward_ms']['median']:.{digits}f}",
            "both ms": f"{both['median']:.{digits}f}",
            "20-80 %": f"{both['p20']:.{digits}f}-{both['p80']:.{digits}f}",
            "x ours": f"{row['times_ours']:.1f}",
            "peak MB": "-" if peak is None else f"{peak / 1e6:.0f}",
        }
        if "kept_bytes" in row:
            text["kept MB"] = f"{row['kept_bytes'] / 1e6:.1f}"
        if floors:
            reached = fractions(row, floors) if difference is not None else {}
            text |= {
                f"{word} %": f"{100 * reached[word]:.0f}" if word in reached else "-" for word in ("forward", "backward", "both")
            }
            text["difference"] = "-" if difference is None else f"{difference:.1g}"
        rows.append(text)
    return pd.DataFrame(rows).fillna("-")


def geometric_means(cases: list[dict[str, Any]]) -> dict[str, float]:
    """Over the involutions: how many times ours each rival takes that ran in all of them."""
    rows = [case["candidates"] for case in cases if case["name"].startswith("involution")]
    names = [name for name in rows[0] if name != OURS and not any("failed" in row[name] for row in rows)] if rows else []
    return {name: float(np.exp(np.mean(np.log([row[name]["times_ours"] for row in rows])))) for name in names}


def memory_ratio(case: dict[str, Any]) -> float | None:
    """What a step of ours holds at most, over inputs, outputs and gradients."""
    peak = case["candidates"][OURS]["peak_bytes"]
    held = case["input_bytes"] + case["result_bytes"]
    return None if peak is None else (case["input_bytes"] + peak) / held


def markdown(result: dict[str, Any]) -> str:
    """The whole file."""
    machine = result["machine"]
    parts = _cpu_header(result) if "compilation_seconds" in result else _gpu_header(result)
    if any("passes" in case for case in result["cases"]):
        parts.append(_COLUMNS)
    if any("kept_bytes" in row for case in result["cases"] for row in case["candidates"].values()):
        parts.append("Kept is what autograd stores between the passes, beside inputs and parameters.\n")
    for case in result["cases"]:
        limit, memory = limit_milliseconds(case, machine), memory_ratio(case)
        facts = [
            f"at the machine's rates {limit:.2g} ms" if limit else "",
            f"our memory {memory:.2f} of all tensors" if memory else "",
        ]
        table = as_markdown(as_table(case, pass_floors(case, machine)))
        parts.append(f"**{case['name']}** ({'; '.join(filter(None, facts))})\n\n" + table)
        if times := case["candidates"][OURS].get("kernels_ms"):
            longest = ", ".join(f"{name[:_NAME]} {time:.3f}" for name, time in list(times.items())[:_LONGEST])
            parts.append(f"The longest of our kernels in a step, ms: {longest}; all of them {sum(times.values()):.3f}.\n")
    for dtype in dict.fromkeys(case.get("dtype") for case in result["cases"]):
        means = geometric_means([case for case in result["cases"] if case.get("dtype") == dtype])
        text = ", ".join(f"{name} {value:.1f}" for name, value in means.items())
        parts += [f"Geometric mean over the involutions{f', {dtype}' if dtype else ''}, times ours: {text}.\n"] if means else []
    return "\n".join(parts).rstrip() + "\n"


def _cpu_header(result: dict[str, Any]) -> list[str]:
    machine, compiled = result["machine"], result["compilation_seconds"]
    return [
        f"Measured on {result['date']}: {machine['device']}, {machine['instructions']}, {machine['threads']} threads, "
        f"{_software(machine)}. Medians of {result['repeats']} steps of forward plus backward, all candidates in turns in "
        "one process after their values were compared; peak memory is the growth of the process, beside inputs. float32.\n",
        f"The machine's own rates: {machine['peak_multiply_adds_per_second'] / 1e9:.0f} billion multiply-adds a second in a matrix "
        f"product, {machine['peak_bytes_per_second'] / 1e9:.0f} GB/s in a copy. Compiling takes "
        + ", ".join(f"{seconds} s ({name})" for name, seconds in compiled.items() if name != "again")
        + f"; from the disk cache all of it {compiled['again']} s.\n",
    ]


def _gpu_header(result: dict[str, Any]) -> list[str]:
    machine = result["machine"]
    rates = ", ".join(f"{rate / 1e12:.1f} ({name})" for name, rate in machine["peak_multiply_adds_per_second"].items())
    return [
        f"Measured on {result['date']}: {machine['device']}, CUDA {machine['cuda']}, {_software(machine)}. Batch {result['batch']}, "
        f"all tensors channels last. Medians of {result['repeats']} steps of forward plus backward, the device's own time with its "
        "cache overwritten before each, all candidates in turns in one process after their values were compared; peak memory is "
        "what PyTorch allocates beside inputs.\n",
        f"The machine's own rates: {rates} trillion multiply-adds a second in a matrix product (float32: "
        f"{machine['float32_matmul_precision']} precision), {machine['peak_bytes_per_second'] / 1e9:.0f} GB/s in a copy.\n",
    ]


def _software(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    return f"Python {machine['python']}, {versions}"


def plan_table(cases: dict[str, Callable[[], Case]]) -> pd.DataFrame:
    """What the Triton kernels of each case must move and compute, all text; one row a kernel. The cases may be on "meta"."""
    rows = []
    for name, make in cases.items():
        case = make()
        assert case.call is not None
        for kernel in kernels(case.call):
            work = traffic(kernel, case.call)
            limit = limits(work, case.dtype)
            rows.append(
                {
                    "case": name.rpartition(" ")[0],
                    "dtype": name.rpartition(" ")[2],
                    "kernel": kernel,
                    "MB": f"{work.bytes / 1e6:.1f}",
                    "million multiply-adds": f"{(work.multiply_adds + work.matrix_multiply_adds) / 1e6:,.0f}",
                    "us by bandwidth": f"{limit.bandwidth:.1f}",
                    "us by arithmetic": f"{limit.arithmetic:.1f}",
                    "limit": limit.larger,
                }
            )
    return pd.DataFrame(rows)


def stored_table(cases: dict[str, Callable[[], Case]]) -> pd.DataFrame:
    """Megabytes of a step with a kernel that is made where it is used, and with the same kernel stored; text."""
    rows = []
    for name, make in cases.items():
        call = make().call
        if call is not None and call.generator is not None:
            made, stored = step_bytes(call), stored_step_bytes(call)
            rows.append(
                {
                    "case": name,
                    "made MB": f"{made / 1e6:.1f}",
                    "stored MB": f"{stored / 1e6:.1f}",
                    "stored/made": f"{stored / made:.2f}",
                }
            )
    return pd.DataFrame(rows)


def plan_markdown(cases: dict[str, Callable[[], Case]], batch: int) -> str:
    """The tables with what their columns mean."""
    plan, stored = plan_table(cases), stored_table(cases)
    generated = (
        "\n\nA generated kernel that is made where it is used is never written. What a step, forward and backward, moves at least, beside "
        "the same step with the kernel stored, whose matrix products write it and read its gradient twice:\n\n"
        + as_markdown(stored)
    )
    return (
        f"What each Triton kernel must do at least in one step, batch {batch}, and the microseconds (us) that an {H200.name} needs "
        f"for it at the peaks of its data sheet: {H200.bytes / 1e12} TB/s, {H200.multiply_adds / 1e12} trillion multiply-adds a second "
        f"in float32, {H200.matrix_multiply_adds / 1e12:.0f} in bfloat16 matrix products. Every tensor that a kernel needs is "
        "read once, every result written once, an image's gradient that offsets scatter in float32; a bilinear read counts four "
        "multiply-adds. Partial sums, atomics and reading again count nothing, so these are floors, not predictions. `collect` runs "
        "only under deterministic algorithms.\n\n" + as_markdown(plan) + (generated if len(stored) else "")
    )
