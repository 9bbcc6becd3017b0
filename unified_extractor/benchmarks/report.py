"""A result file as tables for people. Every number comes from the file."""

from typing import Any

import numpy as np
import pandas as pd

from unified_extractor.analysis.records import as_markdown
from unified_extractor.benchmarks.cases import OURS


def limit_milliseconds(case: dict[str, Any], machine: dict[str, Any]) -> float | None:
    """What forward plus backward would take at the machine's measured rates: each multiply-add once, each tensor moved once."""
    if not case["multiply_adds"]:
        return None
    arithmetic = case["multiply_adds"] / machine["peak_multiply_adds_per_second"]
    return 1000 * max(arithmetic, (case["input_bytes"] + case["result_bytes"]) / machine["peak_bytes_per_second"])


def as_table(case: dict[str, Any]) -> pd.DataFrame:
    """One row a candidate, all text: median milliseconds, their spread, how many times ours, megabytes beside the inputs."""
    rows = []
    for name, row in case["candidates"].items():
        both, peak = row["forward_backward_ms"], row["peak_bytes"]
        rows.append(
            {
                "": name,
                "forward ms": f"{row['forward_ms']['median']:.2f}",
                "both ms": f"{both['median']:.2f}",
                "20-80 %": f"{both['p20']:.2f}-{both['p80']:.2f}",
                "x ours": f"{row['times_ours']:.1f}",
                "peak MB": "-" if peak is None else f"{peak / 1e6:.0f}",
            }
        )
    return pd.DataFrame(rows)


def geometric_means(result: dict[str, Any]) -> dict[str, float]:
    """Over the involutions: how many times ours each rival takes."""
    cases = [case for case in result["cases"] if case["name"].startswith("involution")]
    names = [name for name in cases[0]["candidates"] if name != OURS] if cases else []
    ratios = {name: [case["candidates"][name]["times_ours"] for case in cases] for name in names}
    return {name: float(np.exp(np.mean(np.log(values)))) for name, values in ratios.items()}


def memory_ratio(case: dict[str, Any]) -> float | None:
    """What a step of ours holds at most, over inputs, outputs and gradients."""
    peak = case["candidates"][OURS]["peak_bytes"]
    held = case["input_bytes"] + case["result_bytes"]
    return None if peak is None else (case["input_bytes"] + peak) / held


def markdown(result: dict[str, Any]) -> str:
    """The whole file."""
    machine, compiled = result["machine"], result["compilation_seconds"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    parts = [
        f"Measured on {result['date']}: {machine['device']}, {machine['instructions']}, {machine['threads']} threads, Python "
        f"{machine['python']}, {versions}. Medians of {result['repeats']} steps of forward plus backward, all candidates in turns in "
        "one process after their values were compared; peak memory is the growth of the process, beside inputs. float32.\n",
        f"The machine's own rates: {machine['peak_multiply_adds_per_second'] / 1e9:.0f} billion multiply-adds a second in a matrix "
        f"product, {machine['peak_bytes_per_second'] / 1e9:.0f} GB/s in a copy. Compiling takes "
        + ", ".join(f"{seconds} s ({name})" for name, seconds in compiled.items() if name != "again")
        + f"; from the disk cache all of it {compiled['again']} s.\n",
    ]
    for case in result["cases"]:
        limit, memory = limit_milliseconds(case, machine), memory_ratio(case)
        facts = [
            f"at the machine's rates {limit:.2g} ms" if limit else "",
            f"our memory {memory:.2f} of all tensors" if memory else "",
        ]
        parts.append(f"**{case['name']}** ({'; '.join(filter(None, facts))})\n\n" + as_markdown(as_table(case)))
    means = ", ".join(f"{name} {value:.1f}" for name, value in geometric_means(result).items())
    return "\n".join([*parts, f"Geometric mean over the involutions, times ours: {means}.\n" if means else ""]).rstrip() + "\n"
