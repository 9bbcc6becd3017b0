"""Differences paired by seed, each with an interval of its own, and Holm's correction of their p-values."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import ttest_1samp

from unified_extractor.results.groups import by_variant
from unified_extractor.results.record import Record
from unified_extractor.results.statistics import chosen_baseline, mean_and_half_width, values_of


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's method; NaN stays, and counts as a comparison that found nothing."""
    from statsmodels.stats.multitest import multipletests

    given = np.asarray(p_values, float)
    if not len(given):
        return []
    corrected = multipletests(np.nan_to_num(given, nan=1.0), method="holm")[1]
    return [float(value) for value in np.where(np.isnan(given), np.nan, corrected)]


def paired_differences(rows: Sequence[Record], *, baseline: str | None = None, metric: str = "test_accuracy") -> pd.DataFrame:
    """Return a line for every other variant with at least two of the baseline's seeds: mean of variant minus baseline, seed by seed.

    Args:
        rows: rows of one group.
        baseline: the variant that the others are compared with, by default the first.
        metric: the metric that is subtracted.

    Columns: variant, baseline, pairs, the mean difference, the two ends of its own 95 % t-interval, the p-value of the t-test
    corrected by Holm's method, and how many comparisons the table makes. Interval and p-value are NaN where all pairs differ by the
    same, so that nothing says how large noise is. No line without anything to pair.

    Raises:
        RecordError: no such variant; the rows cannot be compared, see :func:`by_variant`; or one has no such metric.
    """
    seeds = {
        variant: dict(zip([row.seed for row in own], values_of(own, metric), strict=True))
        for variant, own in by_variant(rows).items()
    }
    baseline = chosen_baseline(rows, baseline)
    reference, lines, p_values = seeds[baseline], [], []
    for variant, values in seeds.items():
        pairs = [value - reference[seed] for seed, value in values.items() if seed in reference]
        if variant == baseline or len(pairs) < 2:
            continue
        noisy = not np.allclose(pairs, pairs[0], rtol=0, atol=1e-6)  # rows keep accuracies in single precision
        mean, half_width = mean_and_half_width(pairs)
        half_width = half_width if noisy else np.nan
        interval = {f"{metric}_difference": mean, f"{metric}_low": mean - half_width, f"{metric}_high": mean + half_width}
        lines.append({"variant": variant, "baseline": baseline, "pairs": len(pairs), **interval})
        p_values.append(float(ttest_1samp(pairs, 0).pvalue) if noisy else np.nan)
    return pd.DataFrame(lines).assign(p_holm=holm(p_values), comparisons=len(lines))
