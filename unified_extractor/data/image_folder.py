"""A data set in a folder of image files, with one folder for each class."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from unified_extractor.data.augmentation import Augmentation
from unified_extractor.data.data_module import ImageDataModule, Loading, Split
from unified_extractor.data.errors import DataError
from unified_extractor.data.image_datasets import FileImages, ImageFormat, image_files
from unified_extractor.data.splits import balanced_subset, stratified_split

MEMORY_LIMIT = 2 * 2**30
"""Bytes of decoded images up to which a split is held in memory: decoding small files costs more than training on them."""


class ImageFolder(ImageDataModule):
    """Images in ``root/train/<class>/`` and ``root/test/<class>/``, and in ``root/val/<class>/`` if that folder exists.

    Args:
        root: folder that holds ``train``, ``test`` and perhaps ``val``.
        image_size: height and width in pixels; files of another size are resized by their shorter side and cropped at the center.
        resize: length of the shorter side before the center is cropped, in pixels; by default the image size.
        name: name of the data set in records; by default that of its folder.
        validation_fraction: fraction of each class's training images that is used for validation if ``root/val`` is missing.
        per_class: largest number of images of each class, as if ``root/train`` held no more.
        mean: mean of each channel, as a fraction of the full range. With three values images are read as RGB, with one as gray.
        std: standard deviation of each channel, as a fraction of the full range.
        batch_size: images of a step on each device.
        augmentation: augmentation of the training images.
        loading: settings of the loaders.
        predict_folder: folder of the images that ``predict`` reads.

    Raises:
        DataError: a folder is missing, a class is empty, an image is unreadable, or the splits have different classes.
    """

    def __init__(
        self,
        root: str,
        image_size: int,
        resize: int | None = None,
        name: str | None = None,
        validation_fraction: float = 0.1,
        per_class: int | None = None,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        batch_size: int = 64,
        augmentation: Augmentation = Augmentation(),
        loading: Loading = Loading(),
        predict_folder: str | None = None,
    ) -> None:
        super().__init__(batch_size, augmentation, loading, predict_folder)
        if len(mean) not in (1, 3) or len(std) != len(mean):
            raise ValueError(f"mean and std must both have one value (gray) or three (RGB), got mean={mean}, std={std}")
        for option, value in (("image_size", image_size), ("per_class", 1 if per_class is None else per_class)):
            if value < 1:
                raise ValueError(f"{option} must be at least 1, got {value}")
        if not 0 < validation_fraction < 1:
            raise ValueError(f"validation_fraction must lie between 0 and 1, got {validation_fraction}")
        if resize is not None and resize < image_size:
            raise ValueError(f"resize must be at least image_size, got resize={resize}, image_size={image_size}")
        self.root, self.resize = Path(root), resize
        self.name = name or self.root.resolve().name
        self.image_size, self.in_chans = image_size, len(mean)
        self.validation_fraction, self.per_class = validation_fraction, per_class
        self.mean, self.std = mean, std
        self._lists: dict[str, tuple[list[Path], Tensor]] = {}

    @cached_property
    @override
    def class_names(self) -> tuple[str, ...]:
        return _class_folders(self.root / "train")

    @property
    @override
    def file_format(self) -> ImageFormat:
        return ImageFormat(self.in_chans, self.image_size, self.resize)

    @override
    def read(self, split: Split) -> Dataset[tuple[Tensor, int]]:
        files = self._files(split)
        return files.in_memory() if files.bytes <= MEMORY_LIMIT and not files.format.whole else files

    def _files(self, split: Split) -> FileImages:
        has_val = (self.root / "val").is_dir()
        source = "train" if split == "val" and not has_val else split
        paths, labels = self._listed(source)
        chosen = torch.arange(len(paths))
        if source == "train" and self.per_class is not None:
            chosen = balanced_subset(labels, self.per_class)
        if source == "train" and not has_val:
            try:
                parts = stratified_split(labels[chosen], self.validation_fraction)
            except ValueError as error:
                raise DataError(f"{self.root / 'train'}: cannot be split for validation: {error}") from error
            chosen = chosen[parts[1] if split == "val" else parts[0]]
        whole = split == "train" and self.augmentation.resized_crop is not None
        return FileImages([paths[i] for i in chosen], labels[chosen], replace(self.file_format, whole=whole))

    def _listed(self, split: str) -> tuple[list[Path], Tensor]:
        """Return the image files of a split and their labels [N]; the folder is listed only once."""
        if split not in self._lists:
            self._lists[split] = self._look_up(self.root / split)
        return self._lists[split]

    def _look_up(self, folder: Path) -> tuple[list[Path], Tensor]:
        names = _class_folders(folder)
        if names != self.class_names:
            missing, unknown = set(self.class_names) - set(names), set(names) - set(self.class_names)
            raise DataError(
                f"{folder}: classes differ from {self.root / 'train'}: missing {sorted(missing)}, unknown {sorted(unknown)}"
            )
        files = [image_files(folder / name) for name in names]
        labels = torch.tensor([label for label, members in enumerate(files) for _ in members])
        return [path for members in files for path in members], labels


def _class_folders(folder: Path) -> tuple[str, ...]:
    """Return the names of the class folders, sorted."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; it must hold one folder of images a class")
    names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if not names:
        raise DataError(f"{folder}: no class folders; it must hold one folder of images a class")
    return names
