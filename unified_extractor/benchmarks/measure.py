"""Values first, then times and memory: all candidates in one process, taking turns in changing order."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unified_extractor.benchmarks.cases import OURS, Case
from unified_extractor.ops.backends.triton.roofline import backward_bytes, forward_bytes, tensor_bytes
from unified_extractor.profiling.latency import spread
from unified_extractor.profiling.memory import kept_bytes
from unified_extractor.profiling.meters import Meter

TOLERANCE = 1e-3
"""Largest difference of any value, relative to the largest magnitude of its tensor, at which times are reported."""
HALF_TOLERANCE = 5e-2
"""The same of rivals in half precision; ours may err twice as much as the plain formulation."""


class ValuesDifferError(RuntimeError):
    """Two candidates do not compute the same; their times would mean nothing."""


def measured(name: str, case: Case, repeats: int, meter: Meter) -> dict[str, Any]:
    """Compare the candidates' values, then time them in turns.

    Returns:
        The name, what each pass must do at least, and for every candidate: milliseconds of forward and of forward plus backward
        (median, 20th and 80th percentile), the bytes it holds at most beside its inputs, those that autograd keeps between the
        passes, its largest relative difference from ours (in half precision: from the same in float32), and how many times longer
        than ours it takes; for ours also the device's time in each kernel. A rival that fails has the reason instead: ``failed``.

    Raises:
        ValuesDifferError: a difference above :data:`TOLERANCE`, or in half precision ours errs too much.
    """
    failed: dict[str, str] = {}
    differences = _differences(name, case, failed)
    forward: dict[str, list[float]] = {rival: [] for rival in case.candidates}
    both: dict[str, list[float]] = {rival: [] for rival in case.candidates}
    peaks: dict[str, int | None] = {}
    kept: dict[str, int] = {}
    for turn in range(repeats):
        # in another order every time: what ran before leaves its traces in the caches and in the system's memory
        for rival, candidate in random.Random(turn).sample(working := _working(case, failed), len(working)):
            with _excused(rival, failed):
                both[rival].append(meter.milliseconds(candidate.step))
                with torch.no_grad():
                    forward[rival].append(meter.milliseconds(candidate.forward))
    for rival, candidate in _working(case, failed):
        with _excused(rival, failed):
            peaks[rival] = meter.peak_bytes(candidate.step)
            kept[rival] = kept_bytes(candidate.forward, *case.inputs)
    ours = np.median(both[OURS])
    rows: dict[str, Any] = {
        rival: {"failed": failed[rival]}
        if rival in failed
        else {
            "forward_ms": spread(forward[rival]),
            "forward_backward_ms": spread(both[rival]),
            "peak_bytes": peaks[rival],
            "kept_bytes": kept[rival],
            "largest_difference": differences[rival],
            "times_ours": round(float(np.median(both[rival]) / ours), 2),
        }
        for rival in case.candidates
    }
    if kernels := meter.kernels(case.candidates[OURS].step):
        rows[OURS]["kernels_ms"] = kernels
    return {"name": name, "dtype": str(case.dtype).removeprefix("torch."), **_needs(case), "candidates": rows}


def _needs(case: Case) -> dict[str, Any]:
    """What a step must move and compute; where multiply-adds are stated, also by pass."""
    output, *gradients = case.candidates[OURS].step()
    needs = {
        "multiply_adds": sum(case.multiply_adds),
        "input_bytes": tensor_bytes(case.inputs),
        "result_bytes": tensor_bytes([output, *gradients]),
    }
    if not needs["multiply_adds"]:
        return needs
    *leaves, gradient = case.inputs
    forward = {"bytes": forward_bytes(leaves, output), "multiply_adds": case.multiply_adds[0]}
    backward = {"bytes": backward_bytes(leaves, gradient, gradients), "multiply_adds": case.multiply_adds[1]}
    return needs | {"passes": {"forward": forward, "backward": backward}}


def _working(case: Case, failed: dict[str, str]) -> list[Any]:
    return [(rival, candidate) for rival, candidate in case.candidates.items() if rival not in failed]


@contextlib.contextmanager
def _excused(rival: str, failed: dict[str, str]) -> Iterator[None]:
    """A rival's failure is noted, ours is raised."""
    try:
        yield
    except RuntimeError as error:
        if rival == OURS:
            raise
        failed[rival] = _reason(error)


def _reason(error: RuntimeError) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    from torch._dynamo.exc import TorchDynamoException  # takes seconds to import, and something was compiled already

    first = next(iter(str(error).strip().splitlines()), type(error).__name__)[:100]
    return f"does not compile: {first}" if isinstance(error, TorchDynamoException) else first


def _differences(name: str, case: Case, failed: dict[str, str]) -> dict[str, float | None]:
    """Largest relative difference of any value, from ours or, in half precision, the exact ones; None where values are not comparable."""
    found: dict[str, list[float]] = {}
    expected = [value.detach() for value in case.exact()] if case.exact else []
    for rival, candidate in case.candidates.items():
        with _excused(rival, failed):
            candidate.step()  # the first calls of each, so that none is timed compiling
            with torch.no_grad():
                candidate.forward()
            if candidate.values:
                values = [value.detach() for value in candidate.values()]
                expected = expected or [value.clone() for value in values]
                found[rival] = [_difference(value, reference) for value, reference in zip(values, expected, strict=True)]
    if case.exact:
        _judge_half(name, case, found, failed)
    else:
        for rival, differences in found.items():
            if not max(differences) <= TOLERANCE:
                raise ValuesDifferError(f"{name}: {rival} differs from {OURS} by {max(differences):.2g}, more than {TOLERANCE}")
    return {rival: max(found[rival]) if rival in found else None for rival in case.candidates}


def _judge_half(name: str, case: Case, found: dict[str, list[float]], failed: dict[str, str]) -> None:
    """Tensor by tensor, ours errs at most twice as much as the plain formulation, or as one rounding of the exact value."""
    if case.plain not in found:
        raise ValuesDifferError(f"{name}: there is nothing to judge {OURS} by: {case.plain}: {failed[case.plain]}")
    rounding = torch.finfo(case.dtype).eps / 2
    for index, (ours, plain) in enumerate(zip(found[OURS], found[case.plain], strict=True)):
        allowed = min(max(2 * plain, rounding), HALF_TOLERANCE)
        if not ours <= allowed:
            which = "the output" if index == 0 else f"gradient {index}"
            raise ValuesDifferError(
                f"{name}: {which} of {OURS} errs by {ours:.2g}, {case.plain} by {plain:.2g}; allowed {allowed:.2g}"
            )
    for rival, errors in found.items():
        if rival != OURS and not max(errors) <= HALF_TOLERANCE:
            failed[rival] = f"values differ by {max(errors):.2g}"


def _difference(value: Tensor, reference: Tensor) -> float:
    return ((value - reference).abs().max() / reference.abs().max().clamp(min=1e-30)).item()
