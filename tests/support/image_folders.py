"""Small image folders for tests: noise, a few pixels wide."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_images(folder: Path, count: int, *, size: tuple[int, int] = (8, 8), seed: int = 0) -> None:
    """``count`` RGB images of ``size`` (height, width) as PNG files in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for index in range(count):
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{index}.png")


def image_folder(root: Path, *, classes: tuple[str, ...] = ("cat", "dog"), train: int = 10, test: int = 2, val: int = 0) -> Path:
    """A folder as ``ImageFolder`` reads it, with so many images of every class."""
    for first, (split, count) in enumerate((("train", train), ("test", test), ("val", val))):
        for number, name in enumerate(classes):
            if count:
                write_images(root / split / name, count, seed=1000 * first + number)
    return root
