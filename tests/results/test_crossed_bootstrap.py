"""The bootstrap over seeds and images: its errors are those of data that were made, and its intervals cover."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support.rows import row
from unified_extractor.results.crossed_bootstrap import crossed_errors, standard_errors
from unified_extractor.results.dunnett import critical_value, pooled_deviation
from unified_extractor.results.image_overlaps import mean_iou, packed, unpacked
from unified_extractor.results.record import RecordError

SEEDS, IMAGES = 4, 120
DIFFERENCE = 0.05


def made(random):
    """Return which images two variants get right: each finds half of the images hard, a seed shifts its accuracy."""
    flags = {}
    for variant, level in (("a", 0.5), ("b", 0.5 + DIFFERENCE)):
        own_images = random.choice([-0.4, 0.4], IMAGES)
        seeds = random.normal(0, 0.01, (SEEDS, 1))
        flags[variant] = random.random((SEEDS, IMAGES)) < level + own_images + seeds
    return flags


def test_intervals_over_seeds_and_images_cover_and_those_over_seeds_do_not():
    random, covered = np.random.default_rng(0), {"seeds": 0, "both": 0}
    critical, runs = critical_value((SEEDS,), SEEDS, 2 * SEEDS - 2), 150
    for _ in range(runs):
        flags = made(random)
        accuracies = {variant: own.mean(1) for variant, own in flags.items()}
        missed = abs(accuracies["b"].mean() - accuracies["a"].mean() - DIFFERENCE)
        deviation, _ = pooled_deviation([own.tolist() for own in accuracies.values()])
        covered["seeds"] += missed <= critical * deviation * np.sqrt(2 / SEEDS)
        covered["both"] += missed <= critical * crossed_errors(flags, "a", draws=200)["b"]
    assert covered["both"] / runs >= 0.93
    assert covered["seeds"] / runs < 0.85


def test_images_that_are_alike_leave_the_error_over_seeds():
    """Every seed gets all of its images right or none, so that images add nothing."""
    right = np.array([True, True, False, True, False, False])
    flags = {"a": np.repeat(right[:, None], 50, 1), "b": np.repeat(~right[::-1, None], 50, 1)}
    expected = np.sqrt(0.3 * 2 / 6)  # a pooled variance of 0.3 between seeds
    assert crossed_errors(flags, "a", draws=4000)["b"] == pytest.approx(expected, rel=0.05)


def test_seeds_that_are_alike_leave_the_error_over_images():
    """The same images for all seeds: the error is that of the mean over images of the paired difference."""
    random = np.random.default_rng(1)
    a, b = random.random(400) < 0.6, random.random(400) < 0.7
    flags = {variant: np.stack([own] * 3) for variant, own in (("a", a), ("b", b), ("c", a))}
    errors = crossed_errors(flags, "a", draws=4000)
    assert errors["b"] == pytest.approx(np.std(b.astype(float) - a) / 20, rel=0.05)
    assert errors["c"] == pytest.approx(0, abs=1e-7)  # the images are drawn alike for all variants


def test_the_error_of_miou_is_that_of_the_ratio_of_sums_over_images():
    """Two variants of seeds that are alike: the error over images is known by drawing images of the one statistic directly."""
    random = np.random.default_rng(2)
    union = random.integers(50, 200, (60, 3))
    union[:, 2] *= random.random(60) < 0.2  # a class that few images have
    runs = [np.stack([(union * random.uniform(0.2, level, (60, 1))).astype(int), union], -1) for level in (0.6, 0.9)]
    rows = {
        name: [
            row(name, seed, test_images=60, val_miou=0.5, test_miou=float(mean_iou(own.sum(0))), test_overlaps=packed(own))
            for seed in range(3)
        ]
        for name, own in zip("ab", runs, strict=True)
    }
    drawn = []
    for _ in range(4000):
        chosen = random.integers(60, size=60)
        (one, other) = (np.mean([own[chosen, c, 0].sum() / max(own[chosen, c, 1].sum(), 1) for c in range(3)]) for own in runs)
        drawn.append(other - one)
    assert standard_errors(rows, "a", "test_miou")["b"] == pytest.approx(np.std(drawn), rel=0.06)
    assert np.array_equal(unpacked(packed(runs[0]), 60), runs[0])
    assert mean_iou(np.array([[1, 2], [0, 0], [1, 4]])) == 0.375  # a class that is nowhere is left out
    wrong = {"a": rows["a"], "b": [replace(one, test_miou=0.9) for one in rows["b"]]}
    with pytest.raises(RecordError, match="test_overlaps have a mean IoU of"):
        standard_errors(wrong, "a", "test_miou")
    with pytest.raises(ValueError, match="overlaps of 7 images must be two numbers for each class"):
        unpacked(packed(runs[0]), 7)


def test_every_variants_seeds_are_drawn_from_those_of_all():
    """One deviation holds for all: variants of unlike spread between seeds have the same error against a quiet baseline."""
    quiet = np.tile(np.array([[True, False] * 20]), (4, 1))
    loud = np.repeat(np.array([True, True, False, False])[:, None], 40, 1)
    errors = crossed_errors({"a": quiet, "b": quiet, "c": loud}, "a", draws=4000)
    assert errors["b"] > 0.2
