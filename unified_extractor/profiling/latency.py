"""Latency of several computations in one process that take turns."""

import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from unified_extractor.profiling.meters import Meter

Name = TypeVar("Name", bound=Hashable)


def in_turns(computations: Mapping[Name, Callable[[], object]], repeats: int, meter: Meter) -> dict[Name, list[float]]:
    """Return ``repeats`` times in milliseconds for each computation. Each has run once before, to compile and to allocate.

    Each turn has another order, because the state of caches and memory depends on what ran before.
    """
    for compute in computations.values():
        compute()
    times: dict[Name, list[float]] = {name: [] for name in computations}
    for turn in range(repeats):
        for name in random.Random(turn).sample(list(computations), len(computations)):
            times[name].append(meter.milliseconds(computations[name]))
    return times


def percentiles(times: Sequence[float]) -> dict[str, float]:
    """Return the median and the 20th and 80th percentile of some times."""
    low, median, high = np.percentile(times, [20, 50, 80])
    return {"median": round(float(median), 4), "p20": round(float(low), 4), "p80": round(float(high), 4)}


def percentiles_text(percentiles: Mapping[str, float]) -> str:
    """Return the text of a median with its percentiles for a table."""
    return f"{percentiles['median']:.3g} ({percentiles['p20']:.3g} to {percentiles['p80']:.3g})"
