"""What all data modules share: splits, loaders, augmentation, normalisation."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from typing_extensions import override

from unified_extractor.data.errors import DataError
from unified_extractor.data.images import AugmentedImages, NamedImages, image_files
from unified_extractor.data.sampler import EpochSampler

Split = Literal["train", "val", "test"]
_SPLITS: dict[str | None, tuple[Split, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": (),
    None: ("train", "val", "test"),
}


class ImageDataModule(L.LightningDataModule):
    """Square images with one label each, in three splits: train; val, which selects the model; test, for the final number only.

    A subclass sets ``in_chans``, ``image_size``, ``mean``, ``std`` and ``class_names``, and reads a split. Loaders give
    ``images`` float32 [B, in_chans, image_size, image_size], normalised, and ``labels`` int64 [B]; the predict loader gives
    images and the names of their files.

    Args:
        batch_size: images a step and device.
        num_workers: processes that load, 0 for none.
        seed: of the training images' order and augmentation; by default that of ``lightning.seed_everything``.
        crop_padding: zeros around a training image before a random crop of its own size, in pixels.
        flip: mirror half of the training images.
        predict_folder: folder of the images that ``predict`` reads.

    Raises:
        DataError: data that are missing, unreadable, or fewer than a batch.
    """

    in_chans: int
    image_size: int
    mean: Sequence[float]
    std: Sequence[float]

    def __init__(
        self,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int | None = None,
        crop_padding: int = 0,
        flip: bool = False,
        predict_folder: str | None = None,
    ) -> None:
        super().__init__()
        for name, value, minimum in (
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("crop_padding", crop_padding, 0),
        ):
            if value < minimum:
                raise ValueError(f"{name} must be at least {minimum}, got {value}")
        self.batch_size, self.num_workers = batch_size, num_workers
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.crop_padding, self.flip = crop_padding, flip
        self.predict_folder = predict_folder
        self._read: dict[Split, Dataset[tuple[Tensor, int]]] = {}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the labels."""
        raise NotImplementedError

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def read(self, split: Split) -> Dataset[tuple[Tensor, int]]:
        """The images of a split, uint8 [in_chans, image_size, image_size], and their labels. Raises ``DataError``."""
        raise NotImplementedError

    @override
    def setup(self, stage: str | None = None) -> None:
        for split in _SPLITS[stage]:
            count = len(self.images(split))  # type: ignore[arg-type]
            if split == "train" and count < self.batch_size:
                raise DataError(
                    f"batch_size must not exceed the training images, got batch_size={self.batch_size}, {count} images"
                )

    def images(self, split: Split) -> Dataset[tuple[Tensor, int]]:
        """A split as it is, neither augmented nor normalised; read once."""
        if split not in self._read:
            self._read[split] = self.read(split)
        return self._read[split]

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 [B, C, H, W] as the network sees it, float32."""
        return _normalised(images, self.mean, self.std)

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        images = AugmentedImages(self.images("train"), self._augmentation())
        ranks = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        sampler = EpochSampler(images, seed=self.seed, num_replicas=ranks[0], rank=ranks[1])
        return self._loader(images, sampler=sampler, drop_last=True)

    @override
    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.images("val"))

    @override
    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.images("test"))

    @override
    def predict_dataloader(self) -> DataLoader[Any]:
        if self.predict_folder is None:
            raise DataError("predict needs predict_folder, the folder of the images, got none")
        files = image_files(Path(self.predict_folder))
        return self._loader(NamedImages(files, in_chans=self.in_chans, image_size=self.image_size))

    def _augmentation(self) -> v2.Transform:
        steps: list[v2.Transform] = []
        if self.crop_padding:
            steps.append(v2.RandomCrop(self.image_size, padding=self.crop_padding))
        if self.flip:
            steps.append(v2.RandomHorizontalFlip())
        return v2.Compose(steps or [v2.Identity()])

    def _loader(self, images: Dataset[Any], **options: Any) -> DataLoader[Any]:
        return DataLoader(
            images,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(self.seed),  # else every epoch draws from the global one
            collate_fn=_Collate(tuple(self.mean), tuple(self.std)),
            **options,
        )


@dataclass(frozen=True)
class _Collate:
    """A batch from its samples: images stacked and normalised, labels as a tensor, file names as a list."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, samples: list[tuple[Tensor, int | str]]) -> tuple[Tensor, Tensor | list[str]]:
        images, targets = zip(*samples, strict=True)
        batch = _normalised(torch.stack(images), self.mean, self.std)
        return batch, list(targets) if isinstance(targets[0], str) else torch.tensor(targets)


def _normalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    scale, shift = (images.new_tensor(values, dtype=torch.float32).reshape(-1, 1, 1) for values in (std, mean))
    return (images.float() / 255 - shift) / scale
