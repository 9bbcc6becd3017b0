"""The base class of data modules for classification: square images with one label each."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from typing_extensions import override

from unified_extractor.data.augmentation import Augmentation
from unified_extractor.data.data_module import Loading, Split, VisionDataModule
from unified_extractor.data.device_loader import DeviceImageLoader, DeviceLoader
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
    def _augmented_on_device(self) -> str:
        batched = "so" if self.augmentation.batched else "otherwise"
        return f", and augmentation by crop_padding, flip and erasing alone, which is {batched} here"

    @override
    def _held_on_device(self, split: Split) -> bool:
        allowed = self.loading.on_device is not False and (split != "train" or self.augmentation.batched)
        return allowed and isinstance(self.images(split), MemoryImages)

    @override
    def _device_loader(self, split: Split, sampler: EpochSampler | EvaluationSampler, device: torch.device) -> DeviceLoader:
        return DeviceImageLoader(
            self.images(split),  # type: ignore[arg-type]
            sampler,
            batch_size=self.batch_size,
            mean=self.mean,
            std=self.std,
            augmentation=self.augmentation if split == "train" else None,
            device=device,
        )
