"""Rows over seeds: values of a metric, their means with t-intervals, and the baseline that variants are compared with."""

import math
import statistics
from collections.abc import Sequence

import pandas as pd
from scipy.stats import t

from unified_extractor.names import did_you_mean
from unified_extractor.results.choosing import TEST_FIGURES, chooses
from unified_extractor.results.groups import by_variant
from unified_extractor.results.record import Record, RecordError
from unified_extractor.results.training_settings import differing

METRICS = (
    "test_accuracy",
    "test_top5_accuracy",
    "test_loss",
    "test_calibration_error",
    "val_accuracy",
    "val_loss",
    "test_miou",
    "val_miou",
)
"""The fields of a row that measure how well it learned."""
CONFIDENCE = 0.95

_MEANS = ("test_miou", "val_miou", "test_accuracy", "val_accuracy", "test_loss", "test_calibration_error")


def higher_is_better(metric: str) -> bool:
    """Return whether a network is the better, the higher this metric of it is."""
    return not metric.endswith(("loss", "error"))


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half the width of its 95 % t-interval, NaN for a single value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan
    quantile = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return mean, quantile * statistics.stdev(values) / math.sqrt(len(values))


def values_of(rows: Sequence[Record], metric: str) -> list[float]:
    """Return a metric of every row. Raises ``RecordError`` for what is not a metric, or a row without it."""
    if metric not in METRICS:
        raise RecordError(f"the metrics are {', '.join(METRICS)}, got {metric!r}{did_you_mean(metric, METRICS)}")
    values = [getattr(row, metric) for row in rows]
    if None in values:
        raise RecordError(f"{rows[values.index(None)].place} has no {metric}")
    return values


def summary(rows: Sequence[Record], metric: str = "test_accuracy") -> pd.DataFrame:
    """Return a table with a line a variant: number of seeds, how it was trained where this differs, cost, mean of the metric with its
    half width, means of the other metrics.

    Raises:
        RecordError: the rows cannot be compared, see :func:`by_variant`, or one has no such metric.
    """
    lines, training = [], differing(rows)
    others = [other for other in _MEANS if not chooses(rows[0].budget) or other not in TEST_FIGURES]
    others = [other for other in others if any(getattr(row, other) is not None for row in rows)]  # of the rows' task
    for variant, own in by_variant(rows).items():
        mean, half_width = mean_and_half_width(values_of(own, metric))
        lines.append(
            {
                "variant": variant,
                "seeds": len(own),
                **{field: getattr(own[0], field) for field in training},
                "parameters": own[0].parameters,
                "multiply_adds": own[0].multiply_adds,
                metric: mean,
                f"{metric}_half_width": half_width,
                **{other: statistics.fmean(values_of(own, other)) for other in others if other != metric},
            }
        )
    return pd.DataFrame(lines)


def chosen_baseline(rows: Sequence[Record], baseline: str | None) -> str:
    """Return the variant that others are compared with, by default the first. Raise ``RecordError`` if there is no such variant."""
    variants = list(dict.fromkeys(row.variant for row in rows))
    if baseline is None:
        return variants[0]
    if baseline not in variants:
        raise RecordError(
            f"no variant {baseline!r} to be the baseline of {rows[0].dataset}, there are {', '.join(variants)}"
            + did_you_mean(baseline, variants)
        )
    return baseline
