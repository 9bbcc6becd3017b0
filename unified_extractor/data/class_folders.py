"""The folders of an image data set: one for each split, and in it one for each class."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from unified_extractor.data.errors import DataError
from unified_extractor.data.image_files import find_images, is_hidden
from unified_extractor.data.split_folders import SPLIT_NAMES, SplitFolders, folders_in, hidden_or, is_around

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


class ClassFolders(SplitFolders):
    """The files in ``root/<split>/<class>/``, listed once for each split.

    Raises:
        DataError: a folder is missing, a class is empty, or two folders are one split.
    """

    content = "one folder of images a class"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._listed: dict[str, LabeledFiles] = {}

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the class folders in ``train``; without that folder, those in ``val`` or ``test``."""
        there = filter(None, map(self.folder, SPLIT_NAMES))
        return self._names_in(next(there, self.root / "train"))

    def files(self, split: str) -> LabeledFiles:
        """Return the image files of a split. Raise ``DataError`` if the classes of the splits differ."""
        if split not in self._listed:
            self._listed[split] = self._list(self.existing(split))
        return self._listed[split]

    def _list(self, folder: Path) -> LabeledFiles:
        names = self._names_in(folder)
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
                left_out[hidden_or("files outside the class folders", path)] += 1
            elif is_around(path, folder):
                left_out["links to folders that are listed already"] += 1
        return LabeledFiles([path for listing in found for path in listing.files], labels, left_out)

    def _names_in(self, folder: Path) -> tuple[str, ...]:
        """Return the names of the class folders of a split. Raise ``DataError`` if there is none."""
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; it must hold {self.content}")
        names = tuple(path.name for path in folders_in(folder))
        if not names:
            raise DataError(f"{folder}: no class folders; it must hold {self.content}")
        return names
