"""Tables of a result file. Every number comes from the file or, for the plan, from the shapes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from unified_extractor.benchmarks.cases import OURS, Case
from unified_extractor.ops.backends.triton.roofline import H200, kernels, limits, step_bytes, stored_step_bytes, traffic
from unified_extractor.results.markdown import as_markdown

_COLUMNS = (
    "At the machine's rates a pass needs at least the time for each multiply-add once, or for reading its inputs and writing its "
    "results once. The columns in % are that time divided by the measured one; backward is a step without its forward. Difference: "
    "the largest difference of a value, divided by the largest magnitude of its tensor; in float32 from unified_extractor, in "
    "bfloat16 from the plain formulation in float32.\n"
)
_LONGEST, _NAME = 5, 40
"""Number of kernels listed for a case, and number of characters of their names."""
_NO_TIMES = ("forward ms", "both ms", "20-80 %", "time ratio", "peak MB")


def limit_milliseconds(case: dict[str, Any], machine: dict[str, Any]) -> float | None:
    """Return the milliseconds of forward plus backward at the machine's measured rates: each multiply-add once, each tensor
    moved once.

    If the file states the passes, inputs are moved in both.
    """
    if floors := pass_floors(case, machine):
        return sum(floors.values())
    if not case["multiply_adds"]:
        return None
    arithmetic = case["multiply_adds"] / machine["peak_multiply_adds_per_second"]
    return 1000 * max(arithmetic, (case["input_bytes"] + case["result_bytes"]) / machine["peak_bytes_per_second"])


def pass_floors(case: dict[str, Any], machine: dict[str, Any]) -> dict[str, float]:
    """Return the milliseconds of "forward" and "backward" at the machine's measured rates; empty if the file does not state
    the passes."""
    rate = machine["peak_multiply_adds_per_second"]
    rate = rate[case["dtype"]] if isinstance(rate, dict) else rate
    return {
        name: 1000 * max(work["multiply_adds"] / rate, work["bytes"] / machine["peak_bytes_per_second"])
        for name, work in case.get("passes", {}).items()
    }


def fractions(row: dict[str, Any], floors: dict[str, float]) -> dict[str, float]:
    """Return the fraction of the machine's rates that a candidate reaches in forward, in backward (the rest of the step) and
    in both."""
    forward, both = row["forward_ms"]["median"], row["forward_backward_ms"]["median"]
    found = {"forward": floors["forward"] / forward, "both": sum(floors.values()) / both}
    return found | ({"backward": floors["backward"] / (both - forward)} if both > forward else {})


def as_table(case: dict[str, Any], floors: dict[str, float]) -> pd.DataFrame:
    """Return one row for each candidate, all text: median milliseconds with percentiles, time relative to the operator's,
    megabytes.

    If the passes are stated, the rows also have the fraction of the machine's rates in each pass and the largest difference.
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
            "20-80 %": f"{both['p20']:.{digits}f}-{both['p80']:.{digits}f}" + _doubts(row),
            "time ratio": f"{row['time_ratio']:.1f}",
            "peak MB": "-" if peak is None else f"{peak / 1e6:.0f}",
        }
        if "saved_bytes" in row:
            text["saved MB"] = f"{row['saved_bytes'] / 1e6:.1f}"
        if floors:
            reached = fractions(row, floors) if difference is not None else {}
            text |= {
                f"{word} %": f"{100 * reached[word]:.0f}" if word in reached else "-" for word in ("forward", "backward", "both")
            }
            text["difference"] = "-" if difference is None else f"{difference:.1g}"
        rows.append(text)
    return pd.DataFrame(rows).fillna("-")


def _doubts(row: dict[str, Any]) -> str:
    """Return what speaks against a time of a GPU: it was not steady, or the CPU had a part in it."""
    doubts = [word for word, key in (("unsteady", "steady"), ("not a graph", "graphs")) if row.get(key) is False]
    return f" ({', '.join(doubts)})" if doubts else ""


def geometric_means(cases: list[dict[str, Any]]) -> dict[str, float]:
    """Return the geometric mean over the involutions of each baseline's time divided by the operator's."""
    rows = [case["candidates"] for case in cases if case["name"].startswith("involution")]
    names = [name for name in rows[0] if name != OURS and not any("failed" in row[name] for row in rows)] if rows else []
    return {name: float(np.exp(np.mean(np.log([row[name]["time_ratio"] for row in rows])))) for name in names}


def memory_ratio(case: dict[str, Any]) -> float | None:
    """Return the largest memory of a step divided by that of its inputs, outputs and gradients."""
    peak = case["candidates"][OURS]["peak_bytes"]
    held = case["input_bytes"] + case["result_bytes"]
    return None if peak is None else (case["input_bytes"] + peak) / held


def markdown(result: dict[str, Any]) -> str:
    """Return the result file as a Markdown page."""
    machine = result["machine"]
    parts = _cpu_header(result) if "compilation_seconds" in result else _gpu_header(result)
    parts.append("Time ratio: the time of forward plus backward divided by that of unified_extractor.\n")
    if any("passes" in case for case in result["cases"]):
        parts.append(_COLUMNS)
    if any("saved_bytes" in row for case in result["cases"] for row in case["candidates"].values()):
        parts.append("Saved: the bytes that autograd saves for backward, without inputs and parameters.\n")
    for case in result["cases"]:
        limit, memory = limit_milliseconds(case, machine), memory_ratio(case)
        facts = [
            f"at the machine's rates {limit:.2g} ms" if limit else "",
            f"peak memory {memory:.2f} times all inputs, outputs and gradients" if memory else "",
        ]
        table = as_markdown(as_table(case, pass_floors(case, machine)))
        parts.append(f"**{case['name']}** ({'; '.join(filter(None, facts))})\n\n" + table)
        if times := case["candidates"][OURS].get("kernels_ms"):
            longest = ", ".join(f"{name[:_NAME]} {time:.3f}" for name, time in list(times.items())[:_LONGEST])
            parts.append(
                f"The longest kernels of unified_extractor in a step, ms: {longest}; all of them {sum(times.values()):.3f}.\n"
            )
    for dtype in dict.fromkeys(case.get("dtype") for case in result["cases"]):
        means = geometric_means([case for case in result["cases"] if case.get("dtype") == dtype])
        text = ", ".join(f"{name} {value:.1f}" for name, value in means.items())
        parts += (
            [f"Geometric mean of the time ratio over the involutions{f', {dtype}' if dtype else ''}: {text}.\n"] if means else []
        )
    return "\n".join(parts).rstrip() + "\n"


def _cpu_header(result: dict[str, Any]) -> list[str]:
    machine, compiled = result["machine"], result["compilation_seconds"]
    return [
        f"Measured on {result['date']}: {machine['device']}, {machine['instructions']}, {machine['threads']} threads, "
        f"{_software(machine)}. Medians of {result['repeats']} steps of forward plus backward in float32. All candidates take turns "
        "in one process, after their values have been compared. Peak memory is the growth of the process, without inputs.\n",
        f"The machine's measured rates: {machine['peak_multiply_adds_per_second'] / 1e9:.0f} billion multiply-adds a second in a "
        f"matrix product, {machine['peak_bytes_per_second'] / 1e9:.0f} GB/s in a copy. Compiling takes "
        + ", ".join(f"{seconds} s ({name})" for name, seconds in compiled.items() if name != "again")
        + f"; loading all of it from the disk cache takes {compiled['again']} s.\n",
    ]


def _gpu_header(result: dict[str, Any]) -> list[str]:
    machine = result["machine"]
    rates = ", ".join(f"{rate / 1e12:.1f} ({name})" for name, rate in machine["peak_multiply_adds_per_second"].items())
    return [
        f"Measured on {result['date']}: {machine['device']}, CUDA {machine['cuda']}, {_software(machine)}. Batch {result['batch']}, "
        f"all tensors channels last. Medians of {result['repeats']} steps of forward plus backward: {_timing(result)}. All candidates "
        "take turns in one process, after their values have been compared. Peak memory is what PyTorch allocates, without inputs.\n",
        f"The machine's measured rates: {rates} trillion multiply-adds a second in a matrix product (float32: "
        f"{machine['float32_matmul_precision']} precision), {machine['peak_bytes_per_second'] / 1e9:.0f} GB/s in a copy.\n",
    ]


def _timing(result: dict[str, Any]) -> str:
    """Return how a GPU's times were taken."""
    rows = [row for case in result["cases"] for row in case["candidates"].values()]
    if not any("graphs" in row for row in rows):
        return "the device's own time, with a cold cache"
    return (
        "replays of CUDA graphs, in which the CPU has no part, over several sets of inputs in turn, more than a cache holds. "
        "*Unsteady*: the 80th percentile is more than 1.05 times the 20th. *Not a graph*: it cannot be captured, so the CPU may have "
        "a part in its time"
    )


def _software(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    return f"Python {machine['python']}, {versions}"


def plan_table(cases: dict[str, Callable[[], Case]]) -> pd.DataFrame:
    """Return the least work of each case's Triton kernels, all text, one row for each kernel. The cases may be on the device
    "meta"."""
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
    """Return the megabytes of a step that computes its kernel by chunks, and of the same step with a stored kernel;
    text."""
    rows = []
    for name, make in cases.items():
        call = make().call
        if call is not None and call.computed_kernel is not None:
            generated, stored = step_bytes(call), stored_step_bytes(call)
            rows.append(
                {
                    "case": name,
                    "recomputed MB": f"{generated / 1e6:.1f}",
                    "stored MB": f"{stored / 1e6:.1f}",
                    "stored / recomputed": f"{stored / generated:.2f}",
                }
            )
    return pd.DataFrame(rows)


def plan_markdown(cases: dict[str, Callable[[], Case]], batch: int) -> str:
    """Return the tables of the plan with an explanation of their columns."""
    plan, stored = plan_table(cases), stored_table(cases)
    generated = (
        "\n\nThe least memory traffic of a step, forward and backward, with a dynamic kernel that is *recomputed* where it is used and "
        "so never written to memory, and with a *stored* one, whose matrix products write it and read its gradient twice:\n\n"
        + as_markdown(stored)
    )
    return (
        f"The least work of each Triton kernel in one step, batch {batch}, and the microseconds (us) that an {H200.name} needs for it "
        f"at the peak rates of its data sheet: {H200.bytes / 1e12} TB/s, {H200.multiply_adds / 1e12} trillion multiply-adds a second in "
        f"float32, {H200.matrix_multiply_adds / 1e12:.0f} in bfloat16 matrix products. Each input is read once and each result written "
        "once; the gradient of an image sampled at offsets is written in float32; a bilinear sample counts four multiply-adds. Partial "
        "sums, atomic additions and repeated reads are not counted, so these are lower bounds, not predictions. `collect` runs only "
        "under deterministic algorithms.\n\n" + as_markdown(plan) + (generated if len(stored) else "")
    )
