"""Times of several computations in one process, taking turns."""

import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from unified_extractor.profiling.meters import Meter

Name = TypeVar("Name", bound=Hashable)


def in_turns(computations: Mapping[Name, Callable[[], object]], repeats: int, meter: Meter) -> dict[Name, list[float]]:
    """Milliseconds of every computation, ``repeats`` each; each has run once before, to compile and to allocate.

    Every turn is in another order: what ran before leaves its traces in the caches and in the system's memory.
    """
    for compute in computations.values():
        compute()
    times: dict[Name, list[float]] = {name: [] for name in computations}
    for turn in range(repeats):
        for name in random.Random(turn).sample(list(computations), len(computations)):
            times[name].append(meter.milliseconds(computations[name]))
    return times


def spread(times: Sequence[float]) -> dict[str, float]:
    """The median and the 20th and 80th percentile."""
    low, median, high = np.percentile(times, [20, 50, 80])
    return {"median": round(float(median), 4), "p20": round(float(low), 4), "p80": round(float(high), 4)}


def in_words(spread: Mapping[str, float]) -> str:
    """A spread as a table shows it."""
    return f"{spread['median']:.3g} ({spread['p20']:.3g} to {spread['p80']:.3g})"
