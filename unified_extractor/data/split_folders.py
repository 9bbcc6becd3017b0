"""The folders of an image data set, one for each split."""

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import ClassVar

from unified_extractor.data.errors import DataError
from unified_extractor.data.image_files import is_hidden

SPLIT_NAMES = {
    "train": ("train", "training", "train_set", "training_set"),
    "val": ("val", "validation", "valid", "dev", "val_set", "validation_set"),
    "test": ("test", "testing", "test_set"),
}
"""Names of the folder of each split, in any case of letters; the first one stands in messages."""

_UNCLEAR = ("eval", "evaluation", "holdout", "hold_out")
"""Names that are validation images to some and test images to others."""


class SplitFolders:
    """The folders ``root/<split>``.

    Raises:
        DataError: a folder is missing, or two folders are one split.
    """

    content: ClassVar[str]
    """The content of a split's folder, in words for messages."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, split: str) -> Path | None:
        """Return the folder of a split, or ``None`` if there is none. Raise ``DataError`` if a folder of an unclear name may be it."""
        folders = [path for path in folders_in(self.root) if path.name.lower() in SPLIT_NAMES[split]]
        if len(folders) > 1:
            raise DataError(f"{self.root}: {' and '.join(path.name for path in folders)} are both {split} folders, one must go")
        unclear = [path.name for path in folders_in(self.root) if path.name.lower() in _UNCLEAR]
        if not folders and unclear and split != "train":
            raise DataError(
                f"{self.root}: there is no {split} folder, and {unclear[0]} may be validation or test images: rename it to val or test"
            )
        return folders[0] if folders else None

    def existing(self, split: str) -> Path:
        """Return the folder of a split. Raise ``DataError`` if there is none."""
        if (folder := self.folder(split)) is not None:
            return folder
        there = ", ".join(path.name for path in folders_in(self.root))
        raise DataError(
            f"{self.root / split}: no such folder; it must hold {self.content}" + (f"; {self.root} has {there}" if there else "")
        )

    def source(self, split: str) -> str:
        """Return the split whose folder holds the images of a split: ``train`` for ``val`` without a folder of its own."""
        return "train" if split == "val" and self.folder("val") is None else split

    def validation_in_words(self, splits: Collection[str], fraction: float) -> list[str]:
        """Return a text if ``val`` is among the splits and a fraction of the training images."""
        if "val" not in splits or self.source("val") == "val":
            return []
        return [f"no folder of validation images, so they are {fraction:.0%} of {self.folder('train')}"]

    def left_out(self) -> Counter[str]:
        """Return the number of files and folders beside the splits' folders, for each reason in words."""
        known = {name for names in SPLIT_NAMES.values() for name in names}
        found = Counter({f"folder {path.name}": 1 for path in folders_in(self.root) if path.name.lower() not in known})
        return found + Counter(hidden_or("files beside the splits", path) for path in self.root.iterdir() if not path.is_dir())


def hidden_or(reason: str, path: Path) -> str:
    """Return the reason for which a path is left out, unless it is that it is hidden."""
    if is_hidden(path.name):
        return "hidden folders" if path.is_dir() else "hidden files"
    return reason


def folders_in(place: Path) -> list[Path]:
    """Return the folders in a place that can hold data, sorted; links to the place itself or to one around it are none."""
    if not place.is_dir():
        return []
    return sorted(path for path in place.iterdir() if path.is_dir() and not is_hidden(path.name) and not is_around(path, place))


def is_around(path: Path, place: Path) -> bool:
    """Return True for a link to a place itself or to a folder around it."""
    return path.is_symlink() and place.resolve().is_relative_to(path.resolve())
