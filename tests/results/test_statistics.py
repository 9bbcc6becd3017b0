"""Means and intervals are scipy's; rows that cannot be compared are refused."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tests.support.rows import ROW, row, rows_of, segmented
from unified_extractor.results.comparison import compare
from unified_extractor.results.groups import by_variant, groups
from unified_extractor.results.record import RecordError
from unified_extractor.results.statistics import METRICS, mean_and_half_width, summary

ACCURACIES = {"a": [0.91, 0.94, 0.92, 0.97], "b": [0.93, 0.95, 0.90, 0.99]}


@pytest.mark.parametrize("count", [2, 3, 10])
def test_the_interval_is_scipys(count):
    values = np.random.default_rng(count).normal(0.9, 0.02, count).tolist()
    mean, half_width = mean_and_half_width(values)
    low, high = stats.t.interval(0.95, count - 1, loc=np.mean(values), scale=stats.sem(values))
    assert (mean - half_width, mean + half_width) == pytest.approx((low, high), rel=1e-12)
    assert half_width > 0


def test_one_seed_has_a_mean_and_no_interval():
    mean, half_width = mean_and_half_width([0.25])
    assert mean == 0.25
    assert math.isnan(half_width)
    assert summary([row()])["test_accuracy_half_width"].isna().all()


def test_a_summary_has_a_line_a_variant_in_the_rows_order():
    rows = rows_of({"b": ACCURACIES["b"], "a": ACCURACIES["a"][:2]})
    rows = [replace(row, val_accuracy=row.seed / 10) for row in rows]
    table = summary(rows).set_index("variant")
    assert table.index.tolist() == ["b", "a"]
    assert table["seeds"].tolist() == [4, 2]
    assert table.loc["b", "test_accuracy"] == pytest.approx(np.mean(ACCURACIES["b"]))
    assert table.loc["b", "val_accuracy"] == pytest.approx(0.15)
    assert table.loc["a", "val_accuracy"] == pytest.approx(0.05)
    assert table.loc["a", ["parameters", "multiply_adds"]].tolist() == [ROW.parameters, ROW.multiply_adds]


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_can_be_summarized_and_compared(metric):
    values = {"a": [0.1, 0.2, 0.4], "b": [0.3, 0.35, 0.5]}
    make = segmented if metric.endswith("miou") else row
    rows = [make(variant, seed, **{metric: value}) for variant, own in values.items() for seed, value in enumerate(own)]
    assert summary(rows, metric)[metric].tolist() == pytest.approx([np.mean(own) for own in values.values()])
    assert compare(rows, metric=metric).table()[f"{metric}_difference"].tolist() == pytest.approx([0.5 / 3 - 0.0166666666666666])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compare(rows_of(ACCURACIES), baseline="c"), "no variant 'c' to be the baseline of digits, there are a, b"),
        (lambda: summary([row()], "accuracy"), "the metrics are test_accuracy, .*, got 'accuracy'"),
        (
            lambda: summary([row(), row(seed=1, test_top5_accuracy=None)], "test_top5_accuracy"),
            "run run-involution-1-digits has no test_top5_accuracy",
        ),
        (
            lambda: by_variant([row("a"), row("b"), replace(row("a"), run="the-other-one")]),
            "two rows of variant a with seed 0: run run-a-0-digits and run the-other-one",
        ),
        (lambda: summary([row(), row(dataset="cifar10")]), "rows of digits and of cifar10 cannot be compared"),
        (lambda: compare([row(), row(budget="cpu")]), "rows of digits and of digits, budget cpu cannot be compared"),
        (
            lambda: groups([row(dataset="a-b"), row(dataset="a", budget="b")]),
            "the groups a-b and a, budget b would share a folder",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(call, message):
    with pytest.raises(RecordError, match=message):
        call()


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        (
            "network",
            "timm.models.ResNet",
            "network: 'ExtractorNet' in run X, 'ResNet' in run Y",
        ),
        (
            "specs",
            [{"kernel_size": [3, 5], "dynamic_kernel": {"source": "generated", "groups": 4}}],
            "specs.0.kernel_size.1: 3 in run X, 5 in run Y",
        ),
        ("specs", [], "specs: "),
        ("parameters", 1, "parameters: 12345 in run X, 1 in run Y"),
        ("multiply_adds", 1, "multiply_adds: 1234567 in run X, 1 in run Y"),
        ("epochs", 3, "epochs: 2 in run X, 3 in run Y"),
        ("train_images", 999, "train_images: 1000 in run X, 999 in run Y"),
        ("epoch_images", 64, "epoch_images: 992 in run X, 64 in run Y"),
        ("test_images", 10, "test_images: 200 in run X, 10 in run Y"),
        ("settings_hash", "other", "settings_hash: '5e771195' in run X, 'other' in run Y"),
        ("batch_size", 32, "batch_size: 64 in run X, 32 in run Y"),
    ],
)
def test_a_variants_rows_differ_only_in_the_seed(field, value, shown):
    message = re.escape(
        "rows of variant involution differ in "
        + shown.replace(" X", " run-involution-0-digits").replace(" Y", " run-involution-1-digits")
    )
    with pytest.raises(RecordError, match=message):
        by_variant([row(), row(seed=1, **{field: value})])
    by_variant([row(), row("other", seed=1, **{field: value})])


def test_rows_from_before_and_after_a_class_changed_its_module_and_got_an_option_are_of_one_variant():
    spec = {**row().specs[0], "bias": False, "offsets": {"kind": "none", "groups": 1}}
    later = row(seed=1, network="unified_extractor.elsewhere.ExtractorNet", specs=[spec])
    assert by_variant([row(), later]) == {"involution": [row(), later]}


def test_groups_are_named_by_data_set_and_budget():
    rows = [row(), row(dataset="CIFAR10", budget="cpu"), row(seed=1), row(dataset="../..", budget="a/b")]
    found = groups(rows)
    assert found == {"digits": [rows[0], rows[2]], "cifar10-cpu": [rows[1]], "a-b": [rows[3]]}
