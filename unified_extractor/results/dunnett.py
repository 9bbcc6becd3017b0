"""Dunnett's comparison of several groups with one baseline: simultaneous intervals, and the differences that they can detect."""

import math
import statistics
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.optimize import brentq
from scipy.stats import multivariate_t, t

from unified_extractor.results.statistics import CONFIDENCE

POWER = 0.8
"""The probability with which a difference that counts as detectable is found."""
MOST_SEEDS = 1000
"""The largest number of seeds that is proposed."""


def pooled_deviation(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Return the standard deviation within groups, one for all of them, and its degrees of freedom; NaN and 0 of single values."""
    freedom = sum(len(values) - 1 for values in groups)
    squares = sum((len(values) - 1) * statistics.variance(values) for values in groups if len(values) > 1)
    return (math.sqrt(squares / freedom) if freedom else math.nan), freedom


@lru_cache
def critical_value(sizes: tuple[int, ...], baseline_size: int, freedom: int) -> float:
    """Return by how many standard errors simultaneous intervals reach to either side of their differences.

    All intervals together cover the true differences with the probability ``CONFIDENCE``, for normal values of one deviation.

    Args:
        sizes: number of values of each group that is compared.
        baseline_size: number of values of the baseline, with which all are compared.
        freedom: degrees of freedom of the pooled deviation.
    """
    tail, count = (1 - CONFIDENCE) / 2, len(sizes)
    single, bonferroni = (float(t.isf(tail / divisor, freedom)) for divisor in (1, count))
    if count == 1:
        return single
    shared = np.sqrt([size / (size + baseline_size) for size in sizes])  # all differences have the baseline's values in common
    correlation = np.outer(shared, shared)
    np.fill_diagonal(correlation, 1)

    def excess(value: float) -> float:
        bounds = np.full(count, value)
        cdf = multivariate_t.cdf(bounds, shape=correlation, df=freedom, lower_limit=-bounds, maxpts=20_000, random_state=0)
        return float(cdf) - CONFIDENCE

    return float(brentq(excess, single, bonferroni, xtol=1e-3))


def detectable(standard_error: float, critical: float, freedom: int) -> float:
    """Return the true difference whose interval leaves out zero with a probability of about ``POWER``."""
    return standard_error * (critical + float(t.ppf(POWER, freedom)))


def seeds_needed(difference: float, deviation: float, comparisons: int) -> int | None:
    """Return the number of seeds of every group with which a true difference is detectable, ``None`` for more than ``MOST_SEEDS``.

    Args:
        difference: the true difference from the baseline.
        deviation: the standard deviation between seeds.
        comparisons: the number of groups that are compared with the baseline.
    """

    def least(seeds: int, freedom: int) -> float:
        critical = critical_value((seeds,) * comparisons, seeds, freedom)
        return detectable(deviation * math.sqrt(2 / seeds), critical, freedom)

    def enough(seeds: int) -> bool:
        return least(seeds, (comparisons + 1) * (seeds - 1)) <= difference

    known = 10**6  # degrees of freedom, as if the deviation were known
    low = max(2, math.ceil((least(1, known) / difference) ** 2))
    if low > MOST_SEEDS:
        return None
    high = math.ceil(
        low * (least(low, (comparisons + 1) * (low - 1)) / difference) ** 2
    )  # more seeds have no larger critical value
    seeds = low + bisect_left(range(low, high), True, key=enough)
    return seeds if seeds <= MOST_SEEDS else None
