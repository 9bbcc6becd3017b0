"""The meaning of a comparison in plain words: what its intervals cover, what they can detect, and why there is none."""

import statistics

from unified_extractor.results.comparison import Comparison
from unified_extractor.results.dunnett import MOST_SEEDS, POWER, detectable, seeds_needed
from unified_extractor.results.statistics import CONFIDENCE
from unified_extractor.results.tables import as_difference, is_percentage

_TARGETS = (0.01, 0.005)
"""The differences of accuracies for which the seeds needed are stated: one point and a half."""


def statements(comparison: Comparison) -> list[str]:
    """Return what a comparison's table means, a sentence or two each."""
    said = []
    if comparison.compared:
        said = [_about_intervals(comparison), _power(comparison), _about_test_images(comparison)]
    if comparison.metric.endswith("accuracy"):
        said.append(f"Error reduction: the share of the errors of {comparison.baseline} that a variant avoids.")
    by_reason: dict[str, list[str]] = {}
    for variant, reason in comparison.reasons.items():
        by_reason.setdefault(reason, []).append(variant)
    for reason, variants in by_reason.items():
        which = "" if variants == comparison.others else f" for {', '.join(variants)}"
        said.append(f"No interval{which}: {reason}.")
    return said


def _about_intervals(comparison: Comparison) -> str:
    """Return how the intervals are made, and the deviations that they pool."""
    count = len(comparison.compared)
    covered, method = "The interval covers the true difference", "Student's t). It takes"
    if count > 1:
        covered, method = f"All {count} intervals cover their true differences at once", "Dunnett). They take"
    own = [statistics.stdev(comparison.values[variant]) for variant in (comparison.baseline, *comparison.compared)]
    least, most, pooled = (as_difference(value, comparison.metric) for value in (min(own), max(own), comparison.deviation))
    return (
        f"{covered} with a probability of {_percent(CONFIDENCE)} ({method} one standard deviation between seeds for all "
        f"variants, {pooled} with {comparison.freedom} degrees of freedom; those of single variants lie between {least} and {most}."
    )


def _power(comparison: Comparison) -> str:
    """Return the smallest difference that these seeds detect, and the seeds that others take."""
    count, metric = len(comparison.compared), comparison.metric
    errors = [comparison.standard_error(variant) for variant in comparison.compared]
    least = detectable(max(errors), comparison.critical, comparison.freedom)
    needs = []
    for target in _TARGETS if is_percentage(metric) else (least / 2,):
        seeds = seeds_needed(target, comparison.deviation, count)
        needs.append(f"one of {as_difference(target, metric)} takes {seeds or f'more than {MOST_SEEDS:,}'}")
    sizes = sorted({len(comparison.values[variant]) for variant in (comparison.baseline, *comparison.compared)})
    range_of_seeds = " to ".join(map(str, sizes[:1] + sizes[1:][-1:]))
    needs[0] += " seeds of every variant"
    return (
        f"With {range_of_seeds} seeds a variant, a true difference of {as_difference(least, metric)} is found "
        f"with a probability of {_percent(POWER)}; {', '.join(needs)}."
    )


def _about_test_images(comparison: Comparison) -> str:
    """Return what the intervals say about other test images."""
    if not comparison.sample_errors:
        reason = f": {comparison.sample_reason}" if comparison.sample_reason else ""
        return f"The intervals hold for other seeds, not for other images{reason}."
    return (
        "The intervals with the test images hold for other seeds and other test images: their standard errors are those of a "
        "bootstrap that draws both anew, the images alike for all variants."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
