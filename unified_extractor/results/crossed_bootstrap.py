"""Standard errors that cover the test images too: a bootstrap over seeds and images, by the bits of what each run got right."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from unified_extractor.results.correct_images import Flags, unpacked
from unified_extractor.results.record import Record, RecordError

DRAWS = 2000
"""The number of times that seeds and images are drawn."""
_CHUNK = 100
"""The number of draws that are held in memory at once."""


def without_bits(groups: Mapping[str, Sequence[Record]]) -> str:
    """Return which runs do not keep the test images that they got right, in words; nothing if all do."""
    rows = [row for own in groups.values() for row in own]
    lacking = sum(row.test_correct is None for row in rows)
    if lacking == len(rows):
        return "no row keeps which images its run got right"
    return f"{lacking} of {len(rows)} rows do not keep which images their run got right" if lacking else ""


def correct(rows: Sequence[Record]) -> Flags:
    """Return which test images ``[seeds, images]`` the runs of a variant got right.

    Raises:
        RecordError: the bits of a row are not as many as its test images, or not those of its accuracy.
    """
    flags = []
    for row in rows:
        assert row.test_correct is not None
        assert row.test_accuracy is not None
        try:
            flags.append(unpacked(row.test_correct, row.test_images))
        except ValueError as error:
            raise RecordError(f"{row.place}: test_correct: {error}") from error
        if abs(flags[-1].sum() - row.test_accuracy * row.test_images) > 0.5:
            raise RecordError(
                f"{row.place}: test_correct has {flags[-1].sum()} of {row.test_images} images right, "
                f"test_accuracy is {row.test_accuracy}"
            )
    return np.stack(flags)


def standard_errors(groups: Mapping[str, Sequence[Record]], baseline: str) -> dict[str, float]:
    """Return the standard error of every other variant's difference from the baseline, over seeds and test images.

    Raises:
        RecordError: see :func:`correct`.
    """
    return crossed_errors({variant: correct(rows) for variant, rows in groups.items()}, baseline)


def crossed_errors(flags: Mapping[str, Flags], baseline: str, *, draws: int = DRAWS) -> dict[str, float]:
    """Return the standard error of every other variant's mean minus the baseline's, by drawing seeds and images anew.

    A draw takes as many images as there are, the same for all variants, and for each variant as many seeds as it has. What a seed adds
    to its variant's mean is drawn from all variants' seeds, since one deviation holds for all, and widened by sqrt(n / (n - 1)), since
    it is measured from the mean of only n seeds. The generator has a fixed seed.

    Args:
        flags: the images that were right, ``[seeds, images]`` of each variant, two seeds or more.
        baseline: the variant that is subtracted.
        draws: the number of draws.
    """
    random, images = np.random.default_rng(0), next(iter(flags.values())).shape[1]
    means = np.stack([own.mean(0) for own in flags.values()])
    added = [(own - own.mean(0)) * math.sqrt(len(own) / (len(own) - 1)) for own in flags.values()]
    values = np.concatenate([means, *added]).astype(np.float32).T  # [images, variants + all seeds]
    found: list[NDArray[np.float32]] = []
    for start in range(0, draws, _CHUNK):
        count = min(_CHUNK, draws - start)
        chosen = random.integers(images, size=(count, images)) + images * np.arange(count)[:, None]
        weights = np.bincount(chosen.ravel(), minlength=count * images).reshape(count, images).astype(np.float32)
        drawn, by_seeds = np.split(weights @ values / images, [len(flags)], axis=1)
        for column, own in enumerate(flags.values()):
            seeds = random.integers(by_seeds.shape[1], size=(count, len(own)))
            drawn[:, column] += np.take_along_axis(by_seeds, seeds, 1).mean(1)
        found.append(drawn)
    accuracies = dict(zip(flags, np.concatenate(found).T.astype(float), strict=True))
    return {
        variant: float(np.std(own - accuracies[baseline], ddof=1)) for variant, own in accuracies.items() if variant != baseline
    }
