"""What mosaics.py and clutter.py share: the images of a split that scenes are made of, in random turns, and the files of scenes.

Every scene has a random generator of its own, of the seed, the split and the number of the scene: it does not depend on how many there are.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from unified_extractor.data.errors import DataError
from unified_extractor.data.image_files import find_images

SPLITS = ("train", "val", "test")
HELD_OUT = 10
"""Where there is no folder val, every tenth training image of a class is held out for the validation scenes."""


class Source(NamedTuple):
    """A file that scenes are made of, and the index of its class."""

    path: Path
    label: int


def sources(root: Path) -> tuple[list[str], dict[str, list[Source]]]:
    """Return the names of the classes, and the sources of every split; no file is in two. Raise ``DataError`` where a split has none."""
    for split in ("train", "test"):
        if not (root / split).is_dir():
            raise DataError(
                f"{root / split}: no such folder; the images of a class lie in {root}/train/<class> and {root}/test/<class>"
            )
    classes = sorted(path.name for path in (root / "train").iterdir() if path.is_dir())
    found: dict[str, list[Source]] = {split: [] for split in SPLITS}
    for label, name in enumerate(classes):
        for split in SPLITS:
            if (root / split).is_dir():
                found[split] += [Source(path, label) for path in find_images(root / split / name).files]
    if not found["val"]:
        by_class = [[one for one in found["train"] if one.label == label] for label in range(len(classes))]
        found["val"] = [one for own in by_class for one in own[::HELD_OUT]]
        held_out = set(found["val"])
        found["train"] = [one for one in found["train"] if one not in held_out]
    for split, own in found.items():
        if not own:
            raise DataError(f"{root}: no image for the {split} scenes")
    return classes, found


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """Give a folder to write scenes into, which gets its name when all of them are written: a part of a data set never looks whole."""
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    if unfinished.exists():
        raise DataError(f"{unfinished} exists: another process writes it, or was stopped, then delete it")
    unfinished.mkdir(parents=True)
    yield unfinished
    unfinished.rename(folder)


def generator(seed: int, split: str, number: int) -> np.random.Generator:
    """Return the random generator of a scene."""
    return np.random.default_rng([seed, SPLITS.index(split), number])


def in_turns(images: Sequence[Source], seed: int, split: str) -> Iterator[Source]:
    """Yield the sources of a split in a random order, all of them before any comes again."""
    for turn in range(2**31):
        order = np.random.default_rng([seed, SPLITS.index(split), turn, 1]).permutation(len(images))
        yield from (images[index] for index in order)


def opened(source: Source, mode: str) -> Image.Image:
    """Return the image of a source, "RGB" or "L"."""
    with Image.open(source.path) as image:
        return image.convert(mode)


def save(image: Image.Image, path: Path) -> None:
    """Write an image as PNG, without loss, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
