"""The folders of an image data set: one for each split, and in it one for each class."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from unified_extractor.data.errors import DataError
from unified_extractor.data.image_files import find_images, is_hidden

SPLIT_NAMES = {
    "train": ("train", "training", "train_set", "training_set"),
    "val": ("val", "validation", "valid", "dev", "val_set", "validation_set"),
    "test": ("test", "testing", "test_set"),
}
"""Names of the folder of each split, in any case of letters; the first one stands in messages."""

_UNCLEAR = ("eval", "evaluation", "holdout", "hold_out")
"""Names that are validation images to some and test images to others."""

_MOST_NAMES = 30
"""Largest number of classes of which an error lists all."""


@dataclass
class LabeledFiles:
    """The image files of a split.

    Attributes:
        paths: image files, sorted by class and name.
        labels: index of each file's class, int64 [N].
        left_out: number of files and folders that were left out for each reason in words.
    """

    paths: list[Path]
    labels: Tensor
    left_out: Counter[str]


class ClassFolders:
    """The files in ``root/<split>/<class>/``, listed once for each split.

    Raises:
        DataError: a folder is missing, a class is empty, or two folders are one split.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listed: dict[str, LabeledFiles] = {}

    def folder(self, split: str) -> Path | None:
        """Return the folder of a split, or ``None`` if there is none. Raise ``DataError`` if a folder of an unclear name may be it."""
        folders = [path for path in _folders(self.root) if path.name.lower() in SPLIT_NAMES[split]]
        if len(folders) > 1:
            raise DataError(f"{self.root}: {' and '.join(path.name for path in folders)} are both {split} folders, one must go")
        unclear = [path.name for path in _folders(self.root) if path.name.lower() in _UNCLEAR]
        if not folders and unclear and split != "train":
            raise DataError(
                f"{self.root}: there is no {split} folder, and {unclear[0]} may be validation or test images: rename it to val or test"
            )
        return folders[0] if folders else None

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the class folders in ``train``; without that folder, those in ``val`` or ``test``."""
        there = filter(None, map(self.folder, SPLIT_NAMES))
        return _class_names(next(there, self.root / "train"))

    def files(self, split: str) -> LabeledFiles:
        """Return the image files of a split. Raise ``DataError`` if the classes of the splits differ."""
        if split not in self._listed:
            self._listed[split] = self._list(self.folder(split) or self._missing(split))
        return self._listed[split]

    def left_out(self) -> Counter[str]:
        """Return the number of files and folders beside the splits' folders, for each reason in words."""
        known = {name for names in SPLIT_NAMES.values() for name in names}
        found = Counter({f"folder {path.name}": 1 for path in _folders(self.root) if path.name.lower() not in known})
        return found + Counter(_hidden_or("files beside the splits", path) for path in self.root.iterdir() if not path.is_dir())

    def _list(self, folder: Path) -> LabeledFiles:
        names = _class_names(folder)
        if names != self.class_names:
            missing, unknown = set(self.class_names) - set(names), set(names) - set(self.class_names)
            first = self.folder("train") or self.folder("val")
            lists = f"; [{', '.join(names)}] here, [{', '.join(self.class_names)}] there" if len(names) <= _MOST_NAMES else ""
            raise DataError(f"{folder}: classes differ from {first}: missing {sorted(missing)}, unknown {sorted(unknown)}{lists}")
        found = [find_images(folder / name) for name in names]
        labels = torch.tensor([label for label, listing in enumerate(found) for _ in listing.files])
        left_out = sum((listing.left_out for listing in found), Counter())
        for path in folder.iterdir():
            if not path.is_dir() or is_hidden(path.name):
                left_out[_hidden_or("files outside the class folders", path)] += 1
            elif _is_around(path, folder):
                left_out["links to folders that are listed already"] += 1
        return LabeledFiles([path for listing in found for path in listing.files], labels, left_out)

    def _missing(self, split: str) -> Path:
        there = ", ".join(path.name for path in _folders(self.root))
        raise DataError(
            f"{self.root / split}: no such folder; it must hold one folder of images a class"
            + (f"; {self.root} has {there}" if there else "")
        )


def _hidden_or(reason: str, path: Path) -> str:
    if is_hidden(path.name):
        return "hidden folders" if path.is_dir() else "hidden files"
    return reason


def _folders(place: Path) -> list[Path]:
    """Return the folders in a place that can hold data, sorted; links to the place itself or to one around it are none."""
    if not place.is_dir():
        return []
    return sorted(path for path in place.iterdir() if path.is_dir() and not is_hidden(path.name) and not _is_around(path, place))


def _is_around(path: Path, place: Path) -> bool:
    return path.is_symlink() and place.resolve().is_relative_to(path.resolve())


def _class_names(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; it must hold one folder of images a class")
    names = tuple(path.name for path in _folders(folder))
    if not names:
        raise DataError(f"{folder}: no class folders; it must hold one folder of images a class")
    return names
