"""A data set in a folder of image files, with one folder for each class."""

from collections.abc import Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from unified_extractor.data.augmentation import Augmentation
from unified_extractor.data.class_folders import ClassFolders
from unified_extractor.data.copies import LIMIT, CopyFinder, leaks
from unified_extractor.data.data_module import Loading, Split
from unified_extractor.data.errors import DataError
from unified_extractor.data.image_data_module import ImageDataModule
from unified_extractor.data.image_datasets import MEMORY_LIMIT, FileImages, ImageFormat
from unified_extractor.data.image_files import in_words
from unified_extractor.data.measured_normalization import MeasuredNormalization
from unified_extractor.data.splits import balanced_subset, stratified_split
from unified_extractor.data.statistics import Images


class ImageFolder(MeasuredNormalization, ImageDataModule):
    """Images in ``root/train/<class>/``, ``root/test/<class>/`` and, if that folder exists, ``root/val/<class>/``.

    The folders may also be called ``training``, ``testing``, and ``validation``, ``valid`` or ``dev``. Hidden files and folders never
    count, links are followed, and an image stands as its EXIF orientation says, with white behind what is transparent.

    Args:
        root: folder that holds ``train``, ``test`` and perhaps ``val``.
        image_size: height and width in pixels; files of another size are resized by their shorter side and cropped at the center.
        resize: length of the shorter side before the center is cropped, in pixels; by default the image size.
        name: name of the data set in records; by default that of its folder.
        validation_fraction: fraction of each class's training images that is used for validation if there is no such folder. Training
            images that are copies of these are left out.
        per_class: largest number of images of each class, as if ``root/train`` held no more.
        mean: mean of each channel, as a fraction of the full range; by default that of the training images. A trained network is
            always given images as it was trained on.
        std: standard deviation of each channel, as a fraction of the full range; by default that of the training images.
        in_chans: 3 to read images as RGB, 1 as gray; by default as many as ``mean`` has values, or 3.
        batch_size: images of a step on each device.
        augmentation: augmentation of the training images.
        loading: settings of the loaders.
        predict_folder: image files and folders of images that ``predict`` reads, one or a list.

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
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        batch_size: int = 64,
        augmentation: Augmentation = Augmentation(),
        loading: Loading = Loading(),
        predict_folder: list[str] | str | None = None,
        in_chans: Literal[1, 3] | None = None,
    ) -> None:
        super().__init__(batch_size, augmentation, loading, predict_folder)
        for option, value in (("image_size", image_size), ("per_class", 1 if per_class is None else per_class)):
            if value < 1:
                raise ValueError(f"{option} must be at least 1, got {value}")
        if not 0 < validation_fraction < 1:
            raise ValueError(f"validation_fraction must lie between 0 and 1, got {validation_fraction}")
        if resize is not None and resize < image_size:
            raise ValueError(f"resize must be at least image_size, got resize={resize}, image_size={image_size}")
        self.root, self.resize = Path(root), resize
        self.name = name or self.root.resolve().name
        self.image_size = image_size
        self.set_normalization(mean, std, in_chans)
        self.validation_fraction, self.per_class = validation_fraction, per_class
        self._folders, self._copies = ClassFolders(self.root), CopyFinder()
        self._left_out = self._leaked = 0  # copies of validation images

    @property
    @override
    def class_names(self) -> tuple[str, ...]:
        return self._folders.class_names

    @property
    @override
    def file_format(self) -> ImageFormat:
        return ImageFormat(self.in_chans, self.image_size, self.resize)

    @override
    def read(self, split: Split) -> Dataset[tuple[Tensor, int]]:
        files = self._files(split)
        return files.in_memory() if files.bytes <= MEMORY_LIMIT and not files.format.whole else files

    @override
    def described(self, splits: Sequence[Split] = ("train", "val", "test")) -> str:
        sources = {self._folders.source(split) for split in splits}
        parts = [super().described(splits), *self._folders.validation_in_words(splits, self.validation_fraction)]
        left_out = sum((self._folders.files(source).left_out for source in sources), self._folders.left_out())
        if self._left_out:
            left_out["training images that are copies of validation images"] = self._left_out
        return "; ".join([*parts, *filter(None, [in_words(left_out)]), *self._leaks(sources)])

    @override
    def measured_images(self) -> Images:
        images = self.images("train")
        if isinstance(images, FileImages):
            return FileImages(images.paths, images.labels, self.file_format)
        return images  # type: ignore[return-value]

    def _files(self, split: Split) -> FileImages:
        source = self._folders.source(split)
        files = self._folders.files(source)
        chosen = torch.arange(len(files.paths))
        if source == "train" and self.per_class is not None:
            chosen = balanced_subset(files.labels, self.per_class)
        if source == "train" and self._folders.source("val") == "train":
            chosen = self._part(chosen, split)
        whole = split == "train" and self.augmentation.resized_crop is not None
        return FileImages([files.paths[i] for i in chosen], files.labels[chosen], replace(self.file_format, whole=whole))

    def _part(self, chosen: Tensor, split: Split) -> Tensor:
        """Return which of the chosen training images are for training or for validation."""
        files = self._folders.files("train")
        try:
            train, val = (chosen[part] for part in stratified_split(files.labels[chosen], self.validation_fraction))
        except ValueError as error:
            raise DataError(f"{self._folders.folder('train')}: cannot be split for validation: {error}") from error
        if split == "val":
            return val
        if len(chosen) > LIMIT:
            return train
        copies = torch.zeros(len(train), dtype=torch.bool)
        copies[self._copies.find([files.paths[i] for i in train], [files.paths[i] for i in val])] = True
        labels = files.labels[train]
        kept = ~copies | ~torch.isin(labels, labels[~copies])  # a class of nothing but copies stays
        self._left_out, self._leaked = int((~kept).sum()), int((copies & kept).sum())
        return train[kept]

    def _leaks(self, sources: Set[str]) -> list[str]:
        """Return a text for each folder of a split that holds copies of training images."""
        leaked = f"WARNING: {self._leaked:,} training images are copies of validation images, and their classes have no others"
        found = leaks(self._copies, {source: self._folders.files(source).paths for source in sources})
        return [leaked, *found] if self._leaked and "train" in sources else found
