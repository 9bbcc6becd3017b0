"""Paired differences are scipy's, seed by seed, and Holm's correction is that of a worked example."""

import math

import numpy as np
import pytest
from scipy import stats

from tests.support.rows import ROW, row, rows_of
from unified_extractor.results.paired import holm, paired_differences

ACCURACIES = {"a": [0.91, 0.94, 0.92, 0.97], "b": [0.93, 0.95, 0.90, 0.99]}


def test_differences_are_paired_by_seed_and_not_by_place():
    rows = rows_of(ACCURACIES)
    shuffled = [rows[i] for i in (2, 7, 0, 4, 3, 5, 1, 6)]
    expected = stats.ttest_rel(ACCURACIES["b"], ACCURACIES["a"])
    low, high = expected.confidence_interval(0.95)
    for given in (rows, shuffled):
        (line,) = paired_differences(given).to_dict("records")
        assert (line["variant"], line["baseline"], line["pairs"], line["comparisons"]) == ("b", "a", 4, 1)
        assert line["test_accuracy_difference"] == pytest.approx(np.mean(ACCURACIES["b"]) - np.mean(ACCURACIES["a"]))
        assert (line["test_accuracy_low"], line["test_accuracy_high"]) == pytest.approx((low, high), rel=1e-9)
        assert line["p_holm"] == pytest.approx(expected.pvalue, rel=1e-9)


def test_only_shared_seeds_are_paired_and_two_of_them_are_needed():
    rows = [*rows_of(ACCURACIES), row("one", 3), row("none", 9), row("none", 8), row("two", 1), row("two", 2), row("two", 7)]
    table = paired_differences(rows).set_index("variant")
    assert table["pairs"].to_dict() == {"b": 4, "two": 2}
    assert table["comparisons"].tolist() == [2, 2]
    assert table.loc["two", "test_accuracy_difference"] == pytest.approx(ROW.test_accuracy - np.mean(ACCURACIES["a"][1:3]))


def test_another_baseline_turns_the_difference_round():
    rows = rows_of(ACCURACIES)
    (line,), (turned,) = paired_differences(rows).to_dict("records"), paired_differences(rows, baseline="b").to_dict("records")
    assert (turned["variant"], turned["baseline"]) == ("a", "b")
    assert turned["test_accuracy_low"] == pytest.approx(-line["test_accuracy_high"])


def test_nothing_to_pair_is_an_empty_table():
    assert paired_differences([row("a", 0), row("b", 0), row("b", 1)]).empty
    assert paired_differences([row("a", 0), row("a", 1)]).empty


def test_p_values_are_corrected_as_in_an_example_by_hand():
    """Sorted: 4 x 0.005 = 0.02, 3 x 0.01 = 0.03, 2 x 0.03 = 0.06; the last, 0.04, is raised to the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_comparison_without_a_p_value_counts_among_the_comparisons():
    corrected = holm([0.01, math.nan, 0.03])
    assert (corrected[0], corrected[2]) == pytest.approx((0.03, 0.06))
    assert math.isnan(corrected[1])


def test_pairs_that_all_differ_alike_have_neither_interval_nor_p_value():
    single = [float(np.float32(value)) for value in (0.35, 0.6, 0.85)]
    rows = rows_of({"a": [0.25, 0.5, 0.75], "b": single, "c": [0.3, 0.5, 0.9]})
    table = paired_differences(rows).set_index("variant")
    assert table["test_accuracy_difference"]["b"] == pytest.approx(0.1)
    assert table.loc["b", ["test_accuracy_low", "test_accuracy_high", "p_holm"]].isna().all()
    assert table.loc["c"].notna().all()
