"""Critical values are those of scipy's Dunnett test and of drawn normal values; power is what drawn values show."""

import numpy as np
import pytest
from scipy import stats

from unified_extractor.results.dunnett import critical_value, detectable, pooled_deviation, seeds_needed


@pytest.mark.parametrize("sizes", [(3, 3), (5, 2, 4, 3), (16,) * 9])
def test_intervals_are_those_of_scipys_test(sizes):
    random, baseline = np.random.default_rng(len(sizes)), np.random.default_rng(1).normal(0, 1, 4)
    groups = [random.normal(place, 1, size) for place, size in enumerate(sizes)]
    expected = stats.dunnett(*groups, control=baseline, random_state=1).confidence_interval(
        0.95
    )  # of some seeds it does not converge
    deviation, freedom = pooled_deviation([*map(list, groups), list(baseline)])
    assert freedom == sum(sizes) + 4 - len(sizes) - 1
    errors = deviation * np.sqrt(1 / np.array(sizes) + 1 / 4)
    means = np.array([group.mean() for group in groups]) - baseline.mean()
    half_widths = critical_value(sizes, 4, freedom) * errors
    assert means + half_widths == pytest.approx(expected.high, abs=0.01)
    assert means - half_widths == pytest.approx(expected.low, abs=0.01)


def test_one_comparison_is_students():
    assert critical_value((4,), 6, 8) == pytest.approx(stats.t.ppf(0.975, 8))


def drawn(groups, seeds, shift=0.0, count=40_000):
    """Return the t-statistics ``[count, groups]`` of normal groups minus a baseline; the first group is shifted."""
    values = np.random.default_rng(0).normal(size=(count, groups + 1, seeds))
    values[:, 1] += shift
    means, pooled = values.mean(2), np.sqrt(values.var(2, ddof=1).mean(1))
    return (means[:, 1:] - means[:, :1]) / (pooled[:, None] * np.sqrt(2 / seeds))


def test_all_intervals_at_once_cover_as_often_as_they_say():
    critical = critical_value((3,) * 6, 3, 14)
    assert (np.abs(drawn(6, 3)).max(1) <= critical).mean() == pytest.approx(0.95, abs=0.005)


def test_a_detectable_difference_is_found_four_times_of_five():
    critical = critical_value((5,) * 4, 5, 20)
    least = detectable(np.sqrt(2 / 5), critical, 20)
    assert (drawn(4, 5, least)[:, 0] > critical).mean() == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(("difference", "comparisons"), [(1.0, 1), (0.9, 4), (5.0, 3)])
def test_the_seeds_needed_are_the_fewest_that_detect(difference, comparisons):
    def least(seeds):
        freedom = (comparisons + 1) * (seeds - 1)
        return detectable(np.sqrt(2 / seeds), critical_value((seeds,) * comparisons, seeds, freedom), freedom)

    seeds = seeds_needed(difference, 1.0, comparisons)
    assert least(seeds) <= difference
    assert seeds == 2 or least(seeds - 1) > difference
    assert seeds_needed(difference / 100, 1.0, comparisons) is None
