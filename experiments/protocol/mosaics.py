"""Mosaics of an image set with a class for every pixel: canvases of 64x64 pixels, cut at random into tiles of 16 to 48 pixels a side.

    python experiments/protocol/mosaics.py data/cifar10_jpeg data/mosaics

Every tile is filled with an image of its own, resized to cover it and cut at the center, and its pixels have that image's class. Training,
validation and test mosaics are made of different images. 2,000 test mosaics have about as many tiles as CIFAR-10 has test images: more
would show the same images again.
"""

import argparse
import csv
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from scenes import Source, generator, in_turns, opened, save, sources, whole

from unified_extractor.data.class_table import voc_color
from unified_extractor.data.errors import DataError

COUNTS = {"train": 4000, "val": 500, "test": 2000}
SIZE, LEAST, MOST = 64, 16, 48
"""Sides of a mosaic, and of its smallest and largest tile, in pixels."""
GOES_ON = 0.5
"""The probability that a tile is cut that need not be."""

Box = tuple[int, int, int, int]
"""The left, upper, right and lower end of a tile."""


def tiles(box: Box, random: np.random.Generator) -> Iterator[Box]:
    """Yield the tiles into which a box is cut: across its longer side, at a random place, and again."""
    left, upper, right, lower = box
    wide = right - left >= lower - upper
    side = max(right - left, lower - upper)
    if side < 2 * LEAST or (side <= MOST and random.random() >= GOES_ON):
        yield box
        return
    cut = int(random.integers(LEAST, side - LEAST + 1))
    parts = (
        ((left, upper, left + cut, lower), (left + cut, upper, right, lower))
        if wide
        else ((left, upper, right, upper + cut), (left, upper + cut, right, lower))
    )
    for part in parts:
        yield from tiles(part, random)


def mosaic(images: Iterator[Source], random: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """Return a mosaic of the next images, and the class of every pixel."""
    picture, labels = Image.new("RGB", (SIZE, SIZE)), Image.new("L", (SIZE, SIZE))
    for box in tiles((0, 0, SIZE, SIZE), random):
        source, size = next(images), (box[2] - box[0], box[3] - box[1])
        picture.paste(ImageOps.fit(opened(source, "RGB"), size, Image.Resampling.BICUBIC), box)
        labels.paste(source.label, box)
    return picture, labels


def write(root: Path, folder: Path, counts: dict[str, int], seed: int) -> None:
    """Write the mosaics of every split, and the table of the classes."""
    classes, found = sources(root)
    with whole(folder) as unfinished:
        with (unfinished / "classes.csv").open("w", newline="") as file:
            rows = ((name, *voc_color(label + 1)) for label, name in enumerate(classes))
            csv.writer(file).writerows(itertools.chain([("name", "red", "green", "blue")], rows))
        for split, count in counts.items():
            images = in_turns(found[split], seed, split)
            for number in range(count):
                picture, labels = mosaic(images, generator(seed, split, number))
                for kind, image in (("images", picture), ("labels", labels)):
                    save(image, unfinished / split / kind / f"{number:05}.png")


def main() -> int:
    parser = argparse.ArgumentParser("mosaics.py", description="Mosaics of an image set with a class for every pixel.")
    parser.add_argument("root", type=Path, help="a folder with train/<class>/ and test/<class>/, such as data/cifar10_jpeg")
    parser.add_argument("folder", type=Path, help="where train, val and test go; must not exist")
    parser.add_argument("--counts", type=int, nargs=3, default=list(COUNTS.values()), metavar="N", help="mosaics of each")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.folder.exists():
        parser.error(f"{given.folder} exists: nothing is overwritten")
    try:
        write(given.root, given.folder, dict(zip(COUNTS, given.counts, strict=True)), given.seed)
    except DataError as error:
        parser.error(str(error))
    print(f"written: {given.folder}, {sum(given.counts):,} mosaics")
    return 0


if __name__ == "__main__":
    sys.exit(main())
