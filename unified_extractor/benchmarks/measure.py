"""Measurements of a case: values are compared first, then times and memory are measured while the candidates take turns."""

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unified_extractor.benchmarks.cases import OURS, Candidate, Case
from unified_extractor.ops.backends.triton.roofline import backward_bytes, forward_bytes, tensor_bytes
from unified_extractor.profiling.latency import percentiles
from unified_extractor.profiling.memory import saved_bytes
from unified_extractor.profiling.meters import Meter

TOLERANCE = 1e-3
"""Largest difference of a value at which times are reported, relative to the largest magnitude of its tensor."""
HALF_TOLERANCE = 5e-2
"""Largest difference of baselines in half precision; the operator's error may be twice that of the plain formulation."""


class ValuesDifferError(RuntimeError):
    """The error for candidates with different values: their times could not be compared."""


STEADY = 1.05
"""Largest ratio of the 80th and the 20th percentile of a steady time; a row of a GPU says so where it is larger."""


class _Rotation:
    """A pass of a candidate over several sets of inputs in turn."""

    def __init__(self, candidates: Sequence[Candidate], which: str) -> None:
        self._passes = [getattr(candidate, which) for candidate in candidates]

    def __call__(self) -> None:
        for run in self._passes:
            run()

    def milliseconds(self, meter: Meter) -> float:
        """Return the time of one pass."""
        return meter.milliseconds(self) / len(self._passes)


def measured(
    name: str, case: Case, repeats: int, meter: Meter, is_timed: Callable[[str], bool] = lambda label: True
) -> dict[str, Any]:
    """Compare the candidates' values, then time them in turns, or those whose labels ``is_timed`` chooses.

    Returns:
        The name of the case, the least work of each pass, and for each candidate: milliseconds of forward and of forward plus
        backward (median, 20th and 80th percentile), peak bytes beside its inputs, bytes saved for backward, the largest relative
        difference from the operator (in half precision: from float32), and the time divided by the operator's. The operator also
        has the device's time in each kernel. A baseline that fails has the reason instead, as ``failed``.

    Raises:
        ValuesDifferError: values differ by more than :data:`TOLERANCE`, or the operator errs too much in half precision.
    """
    failed: dict[str, str] = {}
    case = _with(case, lambda label: label == case.plain or is_timed(label))
    differences = _differences(name, case, failed)
    case = _with(case, is_timed)
    rotations = _rotations(case, failed, meter)
    forward: dict[str, list[float]] = {label: [] for label in case.candidates}
    both: dict[str, list[float]] = {label: [] for label in case.candidates}
    peaks: dict[str, int | None] = {}
    saved: dict[str, int] = {}
    for turn in range(repeats):
        # each turn has another order, because the state of caches and memory depends on what ran before
        for label, _ in random.Random(turn).sample(working := _working(case, failed), len(working)):
            with _excused(label, failed):
                both[label].append(rotations[label]["step"].milliseconds(meter))
                with torch.no_grad():
                    forward[label].append(rotations[label]["forward"].milliseconds(meter))
    for label, candidate in _working(case, failed):
        with _excused(label, failed):
            peaks[label] = meter.peak_bytes(candidate.step)
            saved[label] = saved_bytes(candidate.forward, *case.inputs)
    ours = np.median(both[OURS])
    rows: dict[str, Any] = {
        label: {"failed": failed[label]}
        if label in failed
        else {
            "forward_ms": percentiles(forward[label]),
            "forward_backward_ms": percentiles(both[label]),
            "peak_bytes": peaks[label],
            "saved_bytes": saved[label],
            "largest_difference": differences[label],
            "time_ratio": round(float(np.median(both[label]) / ours), 2),
            **_trust(meter, rotations[label], [forward[label], both[label]]),
        }
        for label in case.candidates
    }
    if kernels := meter.kernels(case.candidates[OURS].step):
        rows[OURS]["kernels_ms"] = kernels
    return {"name": name, "dtype": str(case.dtype).removeprefix("torch."), **_least_work(case), "candidates": rows}


def _with(case: Case, chooses: Callable[[str], bool]) -> Case:
    return replace(case, candidates={label: candidate for label, candidate in case.candidates.items() if chooses(label)})


def _rotations(case: Case, failed: dict[str, str], meter: Meter) -> dict[str, dict[str, _Rotation]]:
    """Return each candidate's passes, over as many sets of inputs as the meter wants."""
    copies = max(-(-meter.rotated_bytes // max(tensor_bytes(case.inputs), 1)), 1)
    found = {}
    for label, candidate in _working(case, failed):
        sets = [candidate]
        if candidate.copied is not None:
            sets += [candidate.copied() for _ in range(copies - 1)]
        found[label] = {which: _Rotation(sets, which) for which in ("step", "forward")}
    return found


def _trust(meter: Meter, rotations: Mapping[str, _Rotation], times: Sequence[Sequence[float]]) -> dict[str, bool]:
    """Return whether graphs were replayed, and whether all times were steady; nothing where there are no graphs."""
    replays = [meter.replays(rotation) for rotation in rotations.values()]
    if None in replays:
        return {}
    spans = [percentiles(those) for those in times]
    return {"graphs": all(replays), "steady": all(span["p80"] <= STEADY * span["p20"] for span in spans)}


def _least_work(case: Case) -> dict[str, Any]:
    """Return the bytes and multiply-adds that a step needs at least; if multiply-adds are stated, also those of each pass."""
    output, *gradients = case.candidates[OURS].step()
    work = {
        "multiply_adds": sum(case.multiply_adds),
        "input_bytes": tensor_bytes(case.inputs),
        "result_bytes": tensor_bytes([output, *gradients]),
    }
    if not work["multiply_adds"]:
        return work
    *leaves, gradient = case.inputs
    forward = {"bytes": forward_bytes(leaves, output), "multiply_adds": case.multiply_adds[0]}
    backward = {"bytes": backward_bytes(leaves, gradient, gradients), "multiply_adds": case.multiply_adds[1]}
    return work | {"passes": {"forward": forward, "backward": backward}}


def _working(case: Case, failed: dict[str, str]) -> list[Any]:
    return [(label, candidate) for label, candidate in case.candidates.items() if label not in failed]


@contextlib.contextmanager
def _excused(label: str, failed: dict[str, str]) -> Iterator[None]:
    """Note the failure of a baseline in ``failed`` and go on; raise one of the operator."""
    try:
        yield
    except RuntimeError as error:
        if label == OURS:
            raise
        failed[label] = _reason(error)


def _reason(error: RuntimeError) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    from torch._dynamo.exc import TorchDynamoException  # takes seconds to import, and something was compiled already

    first = next(iter(str(error).strip().splitlines()), type(error).__name__)[:100]
    return f"does not compile: {first}" if isinstance(error, TorchDynamoException) else first


def _differences(name: str, case: Case, failed: dict[str, str]) -> dict[str, float | None]:
    """Return the largest relative difference of each candidate from the operator or, in half precision, from exact values;
    None if not comparable."""
    found: dict[str, list[float]] = {}
    expected = [value.detach() for value in case.exact()] if case.exact else []
    for label, candidate in case.candidates.items():
        with _excused(label, failed):
            candidate.step()  # the first calls of each, so that none is timed compiling
            with torch.no_grad():
                candidate.forward()
            if candidate.values:
                values = [value.detach() for value in candidate.values()]
                expected = expected or [value.clone() for value in values]
                found[label] = [_difference(value, reference) for value, reference in zip(values, expected, strict=True)]
    if case.exact:
        _judge_half(name, case, found, failed)
    else:
        for label, differences in found.items():
            if not max(differences) <= TOLERANCE:
                raise ValuesDifferError(f"{name}: {label} differs from {OURS} by {max(differences):.2g}, more than {TOLERANCE}")
    return {label: max(found[label]) if label in found else None for label in case.candidates}


def _judge_half(name: str, case: Case, found: dict[str, list[float]], failed: dict[str, str]) -> None:
    """Raise an error unless each tensor of the operator errs at most twice as much as the plain formulation, or by one
    rounding."""
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
    for label, errors in found.items():
        if label != OURS and not max(errors) <= HALF_TOLERANCE:
            failed[label] = f"values differ by {max(errors):.2g}"


def _difference(value: Tensor, reference: Tensor) -> float:
    return ((value - reference).abs().max() / reference.abs().max().clamp(min=1e-30)).item()
