"""The base class of all data modules: splits, loaders and normalization of labeled images."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from unified_extractor.data.device_loader import DeviceLoader
from unified_extractor.data.errors import DataError
from unified_extractor.data.image_datasets import AugmentedImages, EvaluatedImages, normalized
from unified_extractor.data.image_files import ImageListing, find_named_images
from unified_extractor.data.samplers import EpochSampler, EvaluationSampler
from unified_extractor.task import ImageTask

Split = Literal["train", "val", "test"]
Loader = DataLoader[Any] | DeviceLoader
_SPLITS: dict[str | None, tuple[Split, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": (),
    None: ("train", "val", "test"),
}
_ROLES: dict[Split, str] = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True, kw_only=True)
class Loading:
    """Settings of the loaders.

    Attributes:
        num_workers: number of loading processes, 0 for none; unused if the images lie on the device.
        on_device: hold the images on the device as one tensor and augment whole batches there. By default this is done if the
            images fit into memory and the augmentation supports whole batches.
        stateful: make checkpoints within an epoch exact; checkpoints between epochs always are.
        seed: seed of the order and augmentation of training images; by default that of ``lightning.seed_everything``.
    """

    num_workers: int = 0
    on_device: bool | None = None
    stateful: bool = False
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.num_workers < 0:
            raise ValueError(f"num_workers must not be negative, got {self.num_workers}")


class VisionDataModule(L.LightningDataModule):
    """Labeled images of one size in three splits: train; val, which selects the model; test, for the final number only.

    A subclass says what a label is: one class for an image, or one for each pixel. It sets ``name``, ``in_chans``, ``image_size``,
    ``mean``, ``std`` and ``class_names``, and reads a split. Loaders return ``images`` float32 [B, in_chans, H, W], normalized, and their
    labels; evaluation may fill up a batch with images whose label counts for nothing. The loader of ``predict`` returns images, the names
    of their files, and the reason for each that cannot be read.

    Args:
        batch_size: images of a step on each device.
        loading: settings of the loaders.
        predict_folder: image files and folders of images that ``predict`` reads, one or a list.

    Raises:
        DataError: data are missing, unreadable, or fewer than a batch on each device.
    """

    name: str
    in_chans: int
    image_size: int | tuple[int, int]
    mean: Sequence[float]
    std: Sequence[float]

    def __init__(
        self,
        batch_size: int = 64,
        loading: Loading = Loading(),
        predict_folder: list[str] | str | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.batch_size, self.loading = batch_size, loading
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if loading.seed is None else loading.seed
        self.predict_folder = predict_folder
        self._read: dict[Split, Dataset[Any]] = {}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the labels."""
        raise NotImplementedError

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        height, width = (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size
        return self.in_chans, height, width

    @property
    def task(self) -> ImageTask:
        """The classes and the images of a network that is trained on these data."""
        return ImageTask(class_names=self.class_names, mean=self.mean, std=self.std, image_size=self.image_size)

    def logits_shape(self, images: Sequence[int], num_classes: int) -> tuple[int, ...]:
        """Return the shape of the logits that labels of so many classes need, for images of a shape [B, C, H, W]."""
        raise NotImplementedError

    def label_in_words(self, label: Any) -> str:
        """Return a label of a split in words."""
        raise NotImplementedError

    def normalize_as(self, task: ImageTask) -> None:
        """Normalize images as those of a trained network were. Raise ``DataError`` if another normalization is set."""
        if len(task.mean) != self.in_chans:
            raise DataError(f"the network takes images of {len(task.mean)} channels, got {self.in_chans}", "in_chans")
        own = [(round(float(value), 6)) for value in (*self.mean, *self.std)]
        if own != [round(float(value), 6) for value in (*task.mean, *task.std)]:
            raise DataError(
                f"the network was trained with mean {list(task.mean)}, std {list(task.std)}, "
                f"got mean {list(self.mean)}, std {list(self.std)}",
                "mean",
            )

    def read(self, split: Split) -> Dataset[Any]:
        """Return the images of a split, uint8 [in_chans, H, W], and their labels. Raise ``DataError`` if they are unusable."""
        raise NotImplementedError

    def training_transform(self) -> Callable[..., Any]:
        """Return the augmentation of an image and its label, which draws from torch's global random generator."""
        raise NotImplementedError

    def unlabeled(self, files: Sequence[Path]) -> Dataset[Any]:
        """Return the images that ``predict`` reads from these files."""
        raise NotImplementedError

    @override
    def setup(self, stage: str | None = None) -> None:
        for split in _SPLITS[stage]:
            count = len(self.images(split))  # type: ignore[arg-type]
            replicas = self._ranks()[0]
            if split == "train" and count < self.batch_size * replicas:
                on = f" on each of {replicas} devices" if replicas > 1 else ""
                raise DataError(f"must not exceed the training images, got {self.batch_size}{on}, {count} images", "batch_size")
        if self.loading.on_device and "train" in _SPLITS[stage]:
            self._check_on_device()

    def images(self, split: Split) -> Dataset[Any]:
        """Return a split, neither augmented nor normalized. It is read only once."""
        if split not in self._read:
            self._read[split] = self.read(split)
        return self._read[split]

    def described(self, splits: Sequence[Split] = ("train", "val", "test")) -> str:
        """Return a line about the images of some splits: how many were found, and what was left out and why."""
        counts = ", ".join(f"{len(self.images(split)):,} {_ROLES[split]}" for split in splits)  # type: ignore[arg-type]
        return f"{self.name}: {counts} images, {self.num_classes} classes"

    def preprocessing(self) -> str:
        """Return a line about size, normalization and augmentation."""
        mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        channels, height, width = self.image_shape
        changed = ", ".join(self._augmented()) or "none"
        return f"{height}x{width} {'gray' if channels == 1 else 'RGB'}, mean {mean}, std {std}; augmentation: {changed}"

    def adopt(self, other: "VisionDataModule") -> None:
        """Share the images that a module with equal settings has read, instead of reading them again."""
        self._read = other._read

    def batches(self, split: Split, devices: int) -> int:
        """Return the number of batches of a split on each of ``devices``; an incomplete training batch is left out."""
        count = len(self.images(split))  # type: ignore[arg-type]
        return count // devices // self.batch_size if split == "train" else math.ceil(count / (devices * self.batch_size))

    def normalize(self, images: Tensor) -> Tensor:
        """Return images uint8 [B, C, H, W] normalized for the network, float32."""
        return normalized(images, self.mean, self.std)

    @override
    def train_dataloader(self) -> Loader:
        images, (replicas, rank) = self.images("train"), self._ranks()
        sampler = EpochSampler(images, seed=self.seed, num_replicas=replicas, rank=rank)
        if self.trainer:  # a stateful loader skips what a broken epoch has used up before Lightning sets the epoch
            sampler.set_epoch(self.trainer.current_epoch)
        return self._training_loader(images, sampler)

    @override
    def val_dataloader(self) -> Loader:
        return self._evaluation_loader("val")

    @override
    def test_dataloader(self) -> Loader:
        return self._evaluation_loader("test")

    def predict_images(self) -> ImageListing:
        """Return the images that ``predict`` reads, and what was left out. Raise ``DataError`` if there is none."""
        if not self.predict_folder:
            raise DataError("predict needs images or folders of images, got none", "predict_folder")
        places = [self.predict_folder] if isinstance(self.predict_folder, str) else self.predict_folder
        return find_named_images([Path(place) for place in places])

    @override
    def predict_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.unlabeled(self.predict_images().files))

    def _evaluation_loader(self, split: Split) -> Loader:
        images, (replicas, rank) = self.images(split), self._ranks()
        return self._ordered_loader(split, EvaluationSampler(images, num_replicas=replicas, rank=rank))

    def _training_loader(self, images: Dataset[Any], sampler: EpochSampler) -> Loader:
        if self._held_on_device("train"):
            return self._device_loader("train", sampler, self._device())
        return self._loader(AugmentedImages(images, self.training_transform()), sampler=sampler, drop_last=True)

    def _ordered_loader(self, split: Split, sampler: EvaluationSampler) -> Loader:
        if self._held_on_device(split):
            return self._device_loader(split, sampler, self._device())
        return self._loader(EvaluatedImages(self.images(split)), sampler=sampler)

    def _check_on_device(self) -> None:
        """Raise ``DataError`` if the training images cannot be held on the device."""
        if not self._held_on_device("train"):
            raise DataError(
                f"true needs images that fit into memory{self._augmented_on_device()}, got {type(self.images('train')).__name__}",
                "loading.on_device",
            )

    def _augmented_on_device(self) -> str:
        """Return what else than memory holding images on the device needs, in words."""
        return ""

    def _held_on_device(self, split: Split) -> bool:
        """Return True if a split lies on the device as one tensor."""
        return False

    def _device_loader(self, split: Split, sampler: EpochSampler | EvaluationSampler, device: torch.device) -> DeviceLoader:
        """Return the loader of a split that lies on the device, augmented if it is the training images'."""
        raise NotImplementedError

    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def _augmented(self) -> list[str]:
        """Return the settings of the augmentation that are not its defaults, as ``name=value``."""
        raise NotImplementedError

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _loader(self, images: Dataset[Any], **options: Any) -> DataLoader[Any]:
        workers = self.loading.num_workers
        kind = _stateful_loader() if self.loading.stateful else DataLoader
        return kind(
            images,
            batch_size=self.batch_size,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(self.seed),  # else every epoch draws from the global one
            collate_fn=_Collate(tuple(self.mean), tuple(self.std)),
            **options,
        )


def _stateful_loader() -> type[DataLoader[Any]]:
    from torchdata.stateful_dataloader import StatefulDataLoader  # here: only this option needs it

    loader: type[DataLoader[Any]] = StatefulDataLoader
    return loader


@dataclass(frozen=True)
class _Collate:
    """A function that makes a batch of samples: images stacked and normalized, labels as one tensor, texts as lists."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, samples: list[tuple[Any, ...]]) -> tuple[Any, ...]:
        images, *others = zip(*samples, strict=True)
        batch = normalized(torch.stack(images), self.mean, self.std)
        return batch, *map(_batched, others)


def _batched(values: tuple[Any, ...]) -> Any:
    if isinstance(values[0], str):
        return list(values)
    return torch.stack(values) if isinstance(values[0], Tensor) else torch.tensor(values)
