"""All variants of a group compared with a named baseline: differences with simultaneous intervals."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from unified_extractor.results.crossed_bootstrap import KEPT, standard_errors, without_images
from unified_extractor.results.dunnett import critical_value, pooled_deviation
from unified_extractor.results.groups import by_variant
from unified_extractor.results.record import Record
from unified_extractor.results.statistics import chosen_baseline, values_of


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The values of all variants in one metric, and the parts of Dunnett's intervals of their differences from a baseline.

    Attributes:
        baseline: the variant that the others are compared with.
        metric: the field of the records that is compared.
        values: the metric of every variant, a value a seed, the baseline's among them.
        reasons: why a variant has no interval, for those that have none.
        deviation: the standard deviation between seeds, pooled over the baseline and the variants with an interval; NaN without any.
        freedom: the degrees of freedom of the deviation.
        critical: by how many standard errors the intervals reach to either side; NaN without an interval.
        sample_errors: the standard errors over seeds and test images of those differences whose runs keep what they got right.
        sample_reason: why the intervals of a test accuracy do not cover the test images, empty where they do.
    """

    baseline: str
    metric: str
    values: Mapping[str, Sequence[float]]
    reasons: Mapping[str, str]
    deviation: float
    freedom: int
    critical: float
    sample_errors: Mapping[str, float]
    sample_reason: str

    @property
    def others(self) -> list[str]:
        """The variants that are compared with the baseline, in order."""
        return [variant for variant in self.values if variant != self.baseline]

    @property
    def compared(self) -> list[str]:
        """The variants whose differences have an interval."""
        return [variant for variant in self.others if variant not in self.reasons]

    def standard_error(self, variant: str) -> float:
        """Return the standard error of a variant's difference, over seeds."""
        return self.deviation * math.sqrt(1 / len(self.values[variant]) + 1 / len(self.values[self.baseline]))

    def table(self) -> pd.DataFrame:
        """Return a line for every other variant: seeds, mean of the variant minus the baseline's, interval and error reduction.

        Columns: variant, baseline, seeds, the difference, the two ends of its simultaneous 95 % interval over seeds, where rows allow
        it those of the interval over seeds and test images, of an accuracy the error reduction, and how many intervals there are.
        What a variant does not have is NaN.
        """
        return pd.DataFrame([self._line(variant) for variant in self.others]).assign(comparisons=len(self.compared))

    def _line(self, variant: str) -> dict[str, object]:
        mean, reference = (statistics.fmean(self.values[name]) for name in (variant, self.baseline))
        widths = {"": math.nan if variant in self.reasons else self.critical * self.standard_error(variant)}
        if self.sample_errors:
            widths["_sample"] = self.critical * self.sample_errors.get(variant, math.nan)
        line = {"variant": variant, "baseline": self.baseline, "seeds": len(self.values[variant])}
        line[f"{self.metric}_difference"] = difference = mean - reference
        for over, width in widths.items():
            line |= {f"{self.metric}{over}_low": difference - width, f"{self.metric}{over}_high": difference + width}
        if self.metric.endswith("accuracy"):
            line["error_reduction"] = difference / (1 - reference) if reference < 1 else math.nan
        return line


def compare(rows: Sequence[Record], *, baseline: str | None = None, metric: str = "test_accuracy") -> Comparison:
    """Return the comparison of all variants of one group with a baseline, by default the first variant.

    Raises:
        RecordError: no such variant; the rows cannot be compared, see :func:`by_variant`; one has no such metric; or the what it
            keeps of its test images is not that of its accuracy or mIoU.
    """
    groups = by_variant(rows)
    values = {variant: values_of(own, metric) for variant, own in groups.items()}
    baseline = chosen_baseline(rows, baseline)
    reasons = _reasons(groups, baseline, metric)
    compared = [variant for variant in values if variant not in reasons]  # the baseline among them
    deviation, freedom = pooled_deviation([values[variant] for variant in compared]) if len(compared) > 1 else (math.nan, 0)
    if len(compared) > 1 and all(len(set(values[variant])) == 1 for variant in compared):
        nothing = "all seeds of every variant have the same value, so nothing says how large noise is"
        reasons |= dict.fromkeys((variant for variant in compared if variant != baseline), nothing)
        compared, deviation = [baseline], math.nan
    sizes = tuple(len(values[variant]) for variant in compared if variant != baseline)
    kept = {variant: groups[variant] for variant in compared}
    reason = without_images(kept, metric) if metric in KEPT else ""
    covers_images = metric in KEPT and not reason
    return Comparison(
        baseline=baseline,
        metric=metric,
        values=values,
        reasons=reasons,
        deviation=deviation,
        freedom=freedom,
        critical=critical_value(sizes, len(values[baseline]), freedom) if sizes else math.nan,
        sample_errors=standard_errors(kept, baseline, metric) if sizes and covers_images else {},
        sample_reason=reason,
    )


def _reasons(groups: Mapping[str, Sequence[Record]], baseline: str, metric: str) -> dict[str, str]:
    """Return why a variant has no interval, for those that have none."""
    reasons, images = {}, groups[baseline][0].test_images
    for variant, own in groups.items():
        if variant == baseline:
            continue
        if len(groups[baseline]) < 2:
            reasons[variant] = f"the baseline {baseline} has one seed"
        elif len(own) < 2:
            reasons[variant] = "it has one seed"
        elif metric.startswith("test") and own[0].test_images != images:
            reasons[variant] = f"it was tested on {own[0].test_images} images, the baseline on {images}"
    return reasons
