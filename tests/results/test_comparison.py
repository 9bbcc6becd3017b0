"""Differences to a baseline: scipy's Dunnett intervals from rows, and plain words where there is none."""

import numpy as np
import pytest
from scipy import stats

from tests.support.rows import row, rows_of
from unified_extractor.results.comparison import compare
from unified_extractor.results.correct_images import packed
from unified_extractor.results.forest import draw_forest
from unified_extractor.results.record import RecordError
from unified_extractor.results.statements import statements

ACCURACIES = {"gate": [0.81, 0.84, 0.82, 0.87], "static": [0.83, 0.85, 0.80], "plain": [0.70, 0.72, 0.71, 0.74]}


def test_intervals_and_error_reductions_are_those_of_the_rows():
    table = compare(rows_of(ACCURACIES), baseline="static").table().set_index("variant")
    samples = [np.array(ACCURACIES[variant]) for variant in table.index]
    expected = stats.dunnett(*samples, control=np.array(ACCURACIES["static"])).confidence_interval(0.95)
    assert table.index.tolist() == ["gate", "plain"]
    assert table["seeds"].tolist() == [4, 4]
    assert table["test_accuracy_low"].tolist() == pytest.approx(expected.low, abs=1e-4)
    assert table["test_accuracy_high"].tolist() == pytest.approx(expected.high, abs=1e-4)
    errors = {variant: 1 - np.mean(own) for variant, own in ACCURACIES.items()}
    assert table["error_reduction"]["gate"] == pytest.approx((errors["static"] - errors["gate"]) / errors["static"])
    assert set(table["comparisons"]) == {2}


def test_the_report_states_power_and_what_its_intervals_cover():
    said = " ".join(statements(compare(rows_of({"a": [0.81, 0.84, 0.82], "b": [0.83, 0.85, 0.80]}))))
    for part in (
        "The interval covers the true difference with a probability of 95 % (Student's t). It takes one standard",
        "2.08 points with 4 degrees of freedom; those of single variants lie between 1.53 points and 2.52 points",
        "With 3 seeds a variant, a true difference of 6.32 points is found with a probability of 80 %",
        "one of 1 point takes 70 seeds of every variant, one of 0.5 points takes 274",
        "not for other images: no row keeps which images its run got right",
        "the share of the errors of a that a variant avoids",
    ):
        assert part in said
    unequal = {"a": [0.81, 0.84, 0.82, 0.87, 0.83], "b": [0.83, 0.85, 0.80], "c": [0.70, 0.74], "one": [0.8], "two": [0.9]}
    said = " ".join(statements(compare(rows_of(unequal))))
    for part in (
        "All 2 intervals cover their true differences at once",
        "With 2 to 5 seeds a variant, a true difference of 7.52 points is found",  # that of c, whose seeds are the fewest
        "one of 1 point takes 113 seeds",  # of one comparison 95
        "No interval for one, two: it has one seed.",
    ):
        assert part in said
    losses = " ".join(statements(compare([*rows_of(ACCURACIES, test_loss=0.5), row("x", 0, test_loss=0.25)], metric="test_loss")))
    assert "No interval for gate" not in losses
    assert "point" not in losses
    assert "Error reduction" not in losses


@pytest.mark.parametrize(
    ("rows", "intervals", "reason"),
    [
        (rows_of({"a": [0.5], "b": [0.6, 0.7]}), {}, "No interval: the baseline a has one seed."),
        (rows_of({"a": [0.5, 0.6], "b": [0.7], "c": [0.5, 0.8]}), {"c"}, "No interval for b: it has one seed."),
        (rows_of({"a": [0.5, 0.5], "b": [0.6, 0.6]}), {}, "No interval: all seeds of every variant have the same value"),
        (
            [*rows_of({"a": [0.5, 0.6]}), *rows_of({"b": [0.5, 0.75]}, test_images=40)],
            {},
            "No interval: it was tested on 40 images, the baseline on 200.",
        ),
    ],
)
def test_without_an_interval_the_report_says_why(rows, intervals, reason):
    comparison = compare(rows)
    table = comparison.table().set_index("variant")
    assert set(table.index[table["test_accuracy_low"].notna()]) == set(intervals)
    assert table["test_accuracy_difference"].notna().all()
    assert reason in " ".join(statements(comparison))


def test_one_variant_that_does_not_vary_takes_part():
    table = compare(rows_of({"a": [0.5, 0.5, 0.5], "b": [0.5, 0.6, 0.7]})).table()
    assert table[["test_accuracy_low", "test_accuracy_high"]].notna().all(axis=None)


def test_a_baseline_without_errors_has_no_error_reduction():
    assert compare(rows_of({"a": [1.0, 1.0], "b": [0.5, 0.6]})).table()["error_reduction"].isna().all()


def with_bits(rows, images):
    return [
        row(one.variant, one.seed, test_accuracy=float(own.mean()), test_images=len(own), test_correct=packed(own))
        for one, own in zip(rows, images, strict=True)
    ]


def test_intervals_cover_the_test_images_where_all_rows_keep_what_they_got_right():
    random = np.random.default_rng(0)
    rows = with_bits(rows_of({"a": [0, 0, 0], "b": [0, 0, 0]}), random.random((6, 100)) < 0.7)
    comparison = compare(rows)
    table = comparison.table()
    assert (table["test_accuracy_sample_low"] < table["test_accuracy_low"]).all()
    assert table.equals(compare(rows).table())
    assert "hold for other seeds and other test images" in " ".join(statements(comparison))
    partly = [*rows[:-1], row("b", 2, test_accuracy=rows[-1].test_accuracy, test_images=100)]
    assert "test_accuracy_sample_low" not in compare(partly).table()
    assert "1 of 6 rows do not keep which images their run got right" in " ".join(statements(compare(partly)))


def test_bits_that_are_not_the_rows_are_refused():
    bits = np.arange(200) < 100
    for correct, message in ((packed(bits[:40]), "must be 25 bytes"), (packed(bits), "has 100 of 200 images right")):
        rows = rows_of({"a": [0.75, 0.75], "b": [0.7, 0.8]}, test_correct=correct)
        with pytest.raises(RecordError, match=message):
            compare(rows)


def test_the_main_figure_has_both_intervals_where_there_are_both():
    random = np.random.default_rng(0)
    rows = with_bits(rows_of({"a": [0, 0], "b": [0, 0]}), random.random((4, 100)) < 0.7)
    comparison = compare(rows)
    figure = draw_forest(comparison, "digits")
    thin, thick, _ = (np.asarray(line.get_xdata()) for line in figure.axes[0].lines[:3])
    (line,) = comparison.table().to_dict("records")
    assert thin == pytest.approx([100 * line["test_accuracy_sample_low"], 100 * line["test_accuracy_sample_high"]])
    assert thick == pytest.approx([100 * line["test_accuracy_low"], 100 * line["test_accuracy_high"]])
    assert "thin: test images too" in figure.get_suptitle()
