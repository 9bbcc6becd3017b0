"""The base class of data modules for classification: square images with one label each."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from typing_extensions import override

from unified_extractor.data.augmentation import Augmentation
from unified_extractor.data.data_module import Loader, Loading, Split, VisionDataModule
from unified_extractor.data.device_loader import DeviceLoader
from unified_extractor.data.errors import DataError
from unified_extractor.data.image_datasets import ImageFormat, MemoryImages, UnlabeledImages
from unified_extractor.data.samplers import EpochSampler, EvaluationSampler
from unified_extractor.task import ImageTask


class ImageDataModule(VisionDataModule):
    """Square images with one label each, in three splits.

    A subclass sets ``name``, ``in_chans``, ``image_size``, ``mean``, ``std`` and ``class_names``, and reads a split. Loaders return
    ``images`` float32 [B, in_chans, image_size, image_size], normalized, and ``labels`` int64 [B], -1 for an image that only fills
    up a batch.

    Args:
        batch_size: images of a step on each device.
        augmentation: augmentation of the training images.
        loading: settings of the loaders.
        predict_folder: image files and folders of images that ``predict`` reads, one or a list.

    Raises:
        DataError: data are missing, unreadable, or fewer than a batch on each device.
    """

    image_size: int

    def __init__(
        self,
        batch_size: int = 64,
        augmentation: Augmentation = Augmentation(),
        loading: Loading = Loading(),
        predict_folder: list[str] | str | None = None,
    ) -> None:
        super().__init__(batch_size, loading, predict_folder)
        self.augmentation = augmentation

    @property
    def file_format(self) -> ImageFormat:
        """Size and channels to which image files are brought."""
        return ImageFormat(self.in_chans, self.image_size)

    @property
    @override
    def task(self) -> ImageTask:
        return replace(super().task, resize=self.file_format.resize)

    @override
    def logits_shape(self, images: Sequence[int], num_classes: int) -> tuple[int, ...]:
        return images[0], num_classes

    @override
    def label_in_words(self, label: Any) -> str:
        return f"class {self.class_names[label]}"

    @override
    def training_transform(self) -> Callable[..., Any]:
        return self.augmentation.transform(self.image_size, self.mean)

    @override
    def unlabeled(self, files: Sequence[Path]) -> Dataset[Any]:
        return UnlabeledImages(files, self.file_format)

    @override
    def _augmented(self) -> list[str]:
        return self.augmentation.changed()

    @override
    def _check_on_device(self) -> None:
        if not self._held_on_device("train"):
            raise DataError(
                "true needs images that fit into memory, and augmentation by crop_padding, flip and erasing alone, "
                f"got {type(self.images('train')).__name__}, augmented {'so' if self.augmentation.batched else 'otherwise'}",
                "loading.on_device",
            )

    @override
    def _training_loader(self, images: Dataset[Any], sampler: EpochSampler) -> Loader:
        if self._held_on_device("train"):
            return self._device_loader(images, sampler, self.augmentation)
        return super()._training_loader(images, sampler)

    @override
    def _ordered_loader(self, split: Split, sampler: EvaluationSampler) -> Loader:
        if self._held_on_device(split):
            return self._device_loader(self.images(split), sampler, None)
        return super()._ordered_loader(split, sampler)

    def _held_on_device(self, split: Split) -> bool:
        allowed = self.loading.on_device is not False and (split != "train" or self.augmentation.batched)
        return allowed and isinstance(self.images(split), MemoryImages)

    def _device_loader(
        self, images: Any, sampler: EpochSampler | EvaluationSampler, augmentation: Augmentation | None
    ) -> DeviceLoader:
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        return DeviceLoader(
            images,
            sampler,
            batch_size=self.batch_size,
            mean=self.mean,
            std=self.std,
            augmentation=augmentation,
            device=device,
        )
