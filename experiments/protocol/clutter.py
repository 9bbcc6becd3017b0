"""Objects of random size and rotation at random places, among fragments of others: one class for each scene of 48x48 pixels.

    python experiments/protocol/clutter.py data/cifar10_jpeg data/cluttered_cifar10
    python experiments/protocol/clutter.py data/omniglot data/cluttered_omniglot --gray
    python experiments/protocol/clutter.py data/cifar10_jpeg data/upright_cifar10 --scale 1 1 --degrees 0

An object is 24 pixels large times a factor of 0.5 to 2, drawn on a logarithmic axis, and turned by up to 45 degrees. Twelve fragments of
8x8 pixels are cut from other images of the same split and lie behind it, in drawings (--gray, dark on white) among it. Training, validation
and test scenes are made of different images. Where two networks disagree on a fifth of the images, 10,000 test images add 0.9 points to
either side of the difference of two runs, and less to a mean over seeds.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops
from scenes import Source, generator, in_turns, opened, save, sources, whole

from unified_extractor.data.errors import DataError

COUNTS = {"train": 10000, "val": 2500, "test": 10000}
SIZE, OBJECT, FRAGMENT, FRAGMENTS = 48, 24, 8, 12
"""Sides of a scene, of an object at factor 1 and of a fragment, in pixels, and the number of fragments."""


@dataclass(frozen=True, kw_only=True)
class Style:
    """The smallest and largest factor on an object's size, the largest rotation, and whether images are drawings on white."""

    scale: tuple[float, float]
    degrees: float
    gray: bool

    @property
    def mode(self) -> str:
        return "L" if self.gray else "RGB"


def placed(image: Image.Image, mask: Image.Image, scene: Image.Image, corner: tuple[int, int], style: Style) -> None:
    """Put an image on the scene where its mask is white; a drawing adds its ink to what is there."""
    if style.gray:
        behind = scene.crop((*corner, corner[0] + image.width, corner[1] + image.height))
        image = ImageChops.darker(image, behind)
    scene.paste(image, corner, mask)


def fragment(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Return a random part of an image at factor 1."""
    image = image.resize((OBJECT, OBJECT), Image.Resampling.BICUBIC)
    left, upper = (int(value) for value in random.integers(0, OBJECT - FRAGMENT + 1, 2))
    return image.crop((left, upper, left + FRAGMENT, upper + FRAGMENT))


def scene(source: Source, others: Iterator[Source], random: np.random.Generator, style: Style) -> Image.Image:
    """Return a scene of the object in a source, among fragments of others."""
    made = Image.new(style.mode, (SIZE, SIZE), "white" if style.gray else "gray")
    for _ in range(FRAGMENTS):
        part = fragment(opened(next(others), style.mode), random)
        left, upper = (int(value) for value in random.integers(0, SIZE - FRAGMENT + 1, 2))
        placed(part, Image.new("L", part.size, "white"), made, (left, upper), style)
    side = round(OBJECT * float(np.exp(random.uniform(*np.log(style.scale)))))
    image = opened(source, style.mode).resize((side, side), Image.Resampling.BICUBIC)
    turn = {"angle": float(random.uniform(-style.degrees, style.degrees)), "resample": Image.Resampling.BICUBIC, "expand": True}
    mask = Image.new("L", image.size, "white").rotate(**turn)
    image = image.rotate(**turn, fillcolor="white" if style.gray else None)
    room = SIZE - side  # of the object as it was: corners that a rotation turns outward may lie outside
    corner = tuple(int(value) + (side - image.width) // 2 for value in random.integers(0, room + 1, 2))
    placed(image, mask, made, corner, style)  # type: ignore[arg-type]
    return made


def write(root: Path, folder: Path, counts: dict[str, int], seed: int, style: Style) -> None:
    """Write the scenes of every split into class folders."""
    classes, found = sources(root)
    with whole(folder) as unfinished:
        for split, count in counts.items():
            objects, others = (in_turns(found[split], one, split) for one in (seed, seed + 1))
            for number in range(count):
                source = next(objects)
                made = scene(source, others, generator(seed, split, number), style)
                save(made, unfinished / split / classes[source.label] / f"{number:05}.png")


def main() -> int:
    parser = argparse.ArgumentParser("clutter.py", description="Objects of random size and rotation among fragments of others.")
    parser.add_argument("root", type=Path, help="a folder with train/<class>/ and test/<class>/, and perhaps val/<class>/")
    parser.add_argument("folder", type=Path, help="where train, val and test go; must not exist")
    parser.add_argument("--counts", type=int, nargs=3, default=list(COUNTS.values()), metavar="N", help="scenes of each")
    parser.add_argument("--scale", type=float, nargs=2, default=[0.5, 2.0], metavar="FACTOR", help="smallest and largest size")
    parser.add_argument("--degrees", type=float, default=45.0, help="largest rotation to either side")
    parser.add_argument("--gray", action="store_true", help="the images are drawings, dark on white")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.folder.exists():
        parser.error(f"{given.folder} exists: nothing is overwritten")
    if not 0 < given.scale[0] <= given.scale[1] <= SIZE / OBJECT:
        parser.error(f"--scale must be two factors up to {SIZE / OBJECT:g}, the smaller one first, got {given.scale}")
    style = Style(scale=(given.scale[0], given.scale[1]), degrees=given.degrees, gray=given.gray)
    try:
        write(given.root, given.folder, dict(zip(COUNTS, given.counts, strict=True)), given.seed, style)
    except DataError as error:
        parser.error(str(error))
    print(f"written: {given.folder}, {sum(given.counts):,} scenes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
