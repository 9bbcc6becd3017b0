"""The thirteen cases of ``uniex bench gpu``, the operator first and its rivals later, each case written as soon as it is measured."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from unified_extractor.benchmarks import cases, rivals
from unified_extractor.benchmarks.cases import OURS, Case, Setting
from unified_extractor.benchmarks.gpu.results import Results
from unified_extractor.benchmarks.measure import ValuesDifferError, measured
from unified_extractor.profiling.meters import CpuMeter, GraphMeter, Meter

BATCH, REPEATS = 128, 15
OWN = {OURS, "stored", "composed", "depthwise"}
"""Candidates that need no compiler and no other package: the operator's own, and cuDNN's static depthwise convolution."""


def run_bfloat16(folder: Path, toy: bool) -> None:
    """Time the operator in bfloat16; there is no toy, since Triton's interpreter truncates to bfloat16."""
    _run(folder / "speed-bfloat16.json", _cases("bfloat16", toy, None), OWN.__contains__, toy)


def run_float32(folder: Path, toy: bool) -> None:
    """Time the operator in float32."""
    _run(folder / "speed-float32.json", _cases("float32", toy, None), OWN.__contains__, toy)


def run_rivals(folder: Path, toy: bool) -> None:
    """Time the operator beside everything else in bfloat16; the plain formulation without a compiler is compared, not timed."""
    found = _cases("bfloat16", toy, None if toy else "inductor")
    if not toy:
        found |= rivals.cases(BATCH)

    def is_rival(label: str) -> bool:
        return label == OURS or label == "depthwise" or label.startswith("compiled") or label in rivals.LABELS

    _run(folder / "rivals.json", found, is_rival, toy, {"installed": rivals.installed()})


def _cases(dtype: str, toy: bool, compiler: str | None) -> dict[str, Callable[[], Case]]:
    if toy and dtype == "bfloat16":
        return {}
    if toy:
        setting = Setting("cpu", torch.float32, "triton", channels_last=True)
        return {f"DCNv3 16x3x3 {dtype}": partial(cases.deformable_convolution_v4, 1, 16, 3, 1, setting=setting)}
    return {name: make for name, make in cases.gpu_cases(BATCH, compiler=compiler).items() if name.endswith(dtype)}


def _run(
    file: Path,
    chosen: Mapping[str, Callable[[], Case]],
    is_timed: Callable[[str], bool],
    toy: bool,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Measure the cases in turn that an earlier run did not. A case that fails is noted, and the next one is measured."""
    results, meter = Results(file, toy), CpuMeter() if toy else GraphMeter()
    rows: list[dict[str, Any]] = results.before("cases") or []
    failures: list[str] = []
    chosen = {name: make for name, make in chosen.items() if name not in {row["name"] for row in rows}}
    results.write(machine=_machine(meter, toy), batch=1 if toy else BATCH, repeats=1 if toy else REPEATS, **(more or {}))
    for name, make in chosen.items():
        torch.manual_seed(0)
        try:
            rows.append(measured(name, make(), 1 if toy else REPEATS, meter, is_timed))
        except (ValuesDifferError, RuntimeError) as error:
            failures.append(f"{name}: {error}"[:500])
        results.write(cases=rows, failures=failures)
        if not toy:
            torch.cuda.empty_cache()
    results.write(complete=True)


def _machine(meter: Meter, toy: bool) -> dict[str, Any]:
    """Return the description of the machine; that of a toy without measured rates."""
    return {"device": "Triton's interpreter"} if toy else meter.machine()
