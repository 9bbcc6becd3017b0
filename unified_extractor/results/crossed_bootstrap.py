"""Standard errors that cover the test images too: a bootstrap over seeds and images, by what each run keeps of every test image."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from unified_extractor.results import correct_images, image_overlaps
from unified_extractor.results.correct_images import Flags
from unified_extractor.results.image_overlaps import Overlaps, mean_iou
from unified_extractor.results.record import Record, RecordError

DRAWS = 2000
"""The number of times that seeds and images are drawn."""
KEPT = {"test_accuracy": "which images their run got right", "test_miou": "the overlaps of each image"}
"""The results of single test images that rows keep, in words, for each metric whose intervals can cover them."""
_CHUNK = 100
"""The number of draws that are held in memory at once."""
Unpacked = TypeVar("Unpacked")
Weights = NDArray[np.float32]
Scores = Callable[[Weights], NDArray[np.floating]]
"""A function from how often each image was drawn, ``[draws, images]``, to the metric of each run, ``[draws, runs]``."""


def without_images(groups: Mapping[str, Sequence[Record]], metric: str) -> str:
    """Return which runs do not keep what a metric of :data:`KEPT` needs of single test images, in words; nothing if all do."""
    rows = [row for own in groups.values() for row in own]
    lacking = sum((row.test_correct if metric == "test_accuracy" else row.test_overlaps) is None for row in rows)
    if lacking == len(rows):
        return f"no row keeps {KEPT[metric].replace('their run', 'its run')}"
    return f"{lacking} of {len(rows)} rows do not keep {KEPT[metric]}" if lacking else ""


def correct(rows: Sequence[Record]) -> Flags:
    """Return which test images ``[seeds, images]`` the runs of a variant got right.

    Raises:
        RecordError: the bits of a row are not as many as its test images, or not those of its accuracy.
    """
    flags = []
    for row in rows:
        assert row.test_accuracy is not None
        flags.append(_kept(row, "test_correct", correct_images.unpacked))
        if abs(flags[-1].sum() - row.test_accuracy * row.test_images) > 0.5:
            raise RecordError(
                f"{row.place}: test_correct has {flags[-1].sum()} of {row.test_images} images right, "
                f"test_accuracy is {row.test_accuracy}"
            )
    return np.stack(flags)


def overlaps(rows: Sequence[Record]) -> list[Overlaps]:
    """Return the overlaps ``[images, classes, 2]`` of each run of a variant.

    Raises:
        RecordError: the overlaps of a row are not as many as its test images, or not those of its mIoU.
    """
    found = []
    for row in rows:
        assert row.test_miou is not None
        found.append(_kept(row, "test_overlaps", image_overlaps.unpacked))
        if abs(mean := float(mean_iou(found[-1].sum(0))) - row.test_miou) > 1e-4:
            raise RecordError(f"{row.place}: test_overlaps have a mean IoU of {mean:.6f}, test_miou is {row.test_miou}")
    return found


def _kept(row: Record, field: str, unpacked: Callable[[str, int], Unpacked]) -> Unpacked:
    """Return what a row keeps of every test image in a field. Raise ``RecordError`` where it cannot be read."""
    try:
        return unpacked(getattr(row, field), row.test_images)
    except ValueError as error:
        raise RecordError(f"{row.place}: {field}: {error}") from error


def standard_errors(groups: Mapping[str, Sequence[Record]], baseline: str, metric: str) -> dict[str, float]:
    """Return the standard error of every other variant's difference from the baseline, over seeds and test images.

    Raises:
        RecordError: see :func:`correct` and :func:`overlaps`.
    """
    if metric == "test_accuracy":
        return crossed_errors({variant: correct(rows) for variant, rows in groups.items()}, baseline)
    found = {variant: overlaps(rows) for variant, rows in groups.items()}
    seeds = {variant: len(own) for variant, own in found.items()}
    every = [one for own in found.values() for one in own]
    return errors_of(_mean_ious(every), len(every[0]), seeds, baseline)


def crossed_errors(flags: Mapping[str, Flags], baseline: str, *, draws: int = DRAWS) -> dict[str, float]:
    """Return :func:`errors_of` accuracies, for the images that were right, ``[seeds, images]`` of each variant."""
    values = np.concatenate(list(flags.values())).astype(np.float32).T  # [images, runs]
    images, seeds = len(values), {variant: len(own) for variant, own in flags.items()}
    return errors_of(lambda weights: weights @ values / images, images, seeds, baseline, draws=draws)


def errors_of(scores: Scores, images: int, seeds: Mapping[str, int], baseline: str, *, draws: int = DRAWS) -> dict[str, float]:
    """Return the standard error of every other variant's mean minus the baseline's, by drawing seeds and images anew.

    A draw takes as many images as there are, the same for all variants, and for each variant as many seeds as it has. What a seed adds
    to its variant's mean is drawn from all variants' seeds, since one deviation holds for all, and widened by sqrt(n / (n - 1)), since
    it is measured from the mean of only n seeds. The generator has a fixed seed.

    Args:
        scores: function from draws of images to the metric of each run; runs stand variant by variant.
        images: the number of test images.
        seeds: the number of runs of each variant, two or more.
        baseline: the variant that is subtracted.
        draws: the number of draws.
    """
    random, found = np.random.default_rng(0), []
    for start in range(0, draws, _CHUNK):
        count = min(_CHUNK, draws - start)
        chosen = random.integers(images, size=(count, images)) + images * np.arange(count)[:, None]
        weights = np.bincount(chosen.ravel(), minlength=count * images).reshape(count, images).astype(np.float32)
        own = np.split(scores(weights), np.cumsum(list(seeds.values()))[:-1], axis=1)
        means = [runs.mean(1) for runs in own]
        added = [
            (runs - mean[:, None]) * math.sqrt(runs.shape[1] / (runs.shape[1] - 1)) for runs, mean in zip(own, means, strict=True)
        ]
        by_seeds = np.concatenate(added, axis=1)
        for column, number in enumerate(seeds.values()):
            drawn = random.integers(by_seeds.shape[1], size=(count, number))
            means[column] = means[column] + np.take_along_axis(by_seeds, drawn, 1).mean(1)
        found.append(np.stack(means))
    values = dict(zip(seeds, np.concatenate(found, axis=1).astype(float), strict=True))
    return {variant: float(np.std(own - values[baseline], ddof=1)) for variant, own in values.items() if variant != baseline}


def _mean_ious(runs: Sequence[Overlaps]) -> Scores:
    """Return the function from draws of images to the mIoU of each run."""
    images, classes, _ = runs[0].shape
    values = np.stack(runs, axis=1).reshape(images, -1).astype(np.float64)

    def scores(weights: Weights) -> NDArray[np.floating]:
        sums = weights.astype(np.float64) @ values
        return mean_iou(sums.reshape(len(weights), len(runs), classes, 2))

    return scores
