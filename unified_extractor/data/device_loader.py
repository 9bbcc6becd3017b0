"""Loaders for images that lie on the device as one tensor: a batch is made there, augmentation included."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from unified_extractor.data.augmentation import DRAWS, Augmentation, augment_batch
from unified_extractor.data.image_datasets import UNCOUNTED, AugmentedImages, MemoryImages, normalized
from unified_extractor.data.samplers import EpochSampler, EvaluationSampler
from unified_extractor.data.segmented_images import MemorySegmentedImages

Batch = tuple[Tensor, Tensor]


class DeviceLoader:
    """The base of loaders whose batches are made on the device: their number, and a position within an epoch.

    The position is part of Lightning's checkpoints.

    Args:
        sampler: sampler of the images' order; Lightning sets its epoch.
        batch_size: images of a batch.
        drop_last: leave out an incomplete last batch.
    """

    batch_sampler = None  # Lightning asks for it where there is a sampler

    def __init__(self, sampler: EpochSampler | EvaluationSampler, *, batch_size: int, drop_last: bool) -> None:
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last
        self._epoch, self._given, self._resumed = -1, 0, False

    def epoch(self) -> Callable[[slice], Batch]:
        """Return a function that makes the batch of a part of the sampler's present epoch: images, normalized, and labels."""
        raise NotImplementedError

    def __len__(self) -> int:
        full, left = divmod(len(self.sampler), self.batch_size)
        return full + (left > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        first = self._given if self._resumed and self._epoch == self.sampler.epoch else 0
        self._epoch, self._given, self._resumed = self.sampler.epoch, first, False
        batch = self.epoch()
        for number in range(first, len(self)):
            self._given = number + 1
            yield batch(slice(number * self.batch_size, (number + 1) * self.batch_size))

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch and the number of its batches that have been given out."""
        return {"epoch": self._epoch, "given": self._given}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the position: iterating that epoch again continues there."""
        self._epoch, self._given, self._resumed = state_dict["epoch"], state_dict["given"], True


class DeviceImageLoader(DeviceLoader):
    """A loader of ``images`` float32 [B, C, S, S], normalized, and ``labels`` int64 [B], -1 for an image that only fills up a
    batch.

    Args:
        dataset: images, uint8.
        sampler: sampler of their order; Lightning sets its epoch.
        batch_size: images of a batch; in training an incomplete last batch is left out.
        mean: mean of each channel, as a fraction of the full range.
        std: standard deviation of each channel, as a fraction of the full range.
        augmentation: augmentation of training images, or ``None`` for evaluation.
        device: device that holds the images.
    """

    def __init__(
        self,
        dataset: MemoryImages,
        sampler: EpochSampler | EvaluationSampler,
        *,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        augmentation: Augmentation | None,
        device: torch.device,
    ) -> None:
        super().__init__(sampler, batch_size=batch_size, drop_last=augmentation is not None)
        self.mean, self.std, self.augmentation = mean, std, augmentation
        padding = augmentation.crop_padding if augmentation is not None else 0
        self._images = F.pad(dataset.images.to(device), (padding,) * 4) if padding else dataset.images.to(device)
        self._labels = dataset.labels.to(device)

    @override
    def epoch(self) -> Callable[[slice], Batch]:
        order = self.sampler.order()
        draws = None
        if self.augmentation is not None and isinstance(self.sampler, EpochSampler):
            draws = self.sampler.draws(DRAWS)[order].to(self._images.device)
        order = order.to(self._images.device)
        return lambda part: self._batch(order[part], None if draws is None else draws[part])

    def _batch(self, chosen: Tensor, draws: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.augmentation is None or draws is None:
            return normalized(self._images[chosen], self.mean, self.std), self._labels[chosen].where(chosen >= 0, -1)
        crops, erased = augment_batch(self._images, chosen, draws, self.augmentation)
        batch = normalized(crops, self.mean, self.std)
        return batch if erased is None else batch.masked_fill_(erased, 0.0), self._labels[chosen]


class DeviceMapLoader(DeviceLoader):
    """A loader of ``images`` float32 [B, C, H, W], normalized, and label maps uint8 [B, H, W], ``UNCOUNTED`` everywhere for an image that
    only fills up a batch.

    Training images are augmented one at a time by torchvision, with the seeds that a loader on the host gives them: numbers are drawn
    on the host, pixels stay on the device.

    Args:
        dataset: images and label maps, uint8.
        sampler: sampler of their order; Lightning sets its epoch.
        batch_size: images of a batch; in training an incomplete last batch is left out.
        mean: mean of each channel, as a fraction of the full range.
        std: standard deviation of each channel, as a fraction of the full range.
        transform: augmentation of a training image and its map, or ``None`` for evaluation.
        device: device that holds images and maps.
    """

    def __init__(
        self,
        dataset: MemorySegmentedImages,
        sampler: EpochSampler | EvaluationSampler,
        *,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        transform: Callable[..., Any] | None,
        device: torch.device,
    ) -> None:
        super().__init__(sampler, batch_size=batch_size, drop_last=transform is not None)
        self.mean, self.std, self.transform = mean, std, transform
        self._dataset = MemorySegmentedImages(dataset.images.to(device), dataset.maps.to(device))

    @override
    def epoch(self) -> Callable[[slice], Batch]:
        if self.transform is None:
            order = self.sampler.order().to(self._dataset.images.device)
            return lambda part: self._evaluated(order[part])
        samples, keys = AugmentedImages(self._dataset, self.transform), list(self.sampler)
        return lambda part: self._augmented([samples[key] for key in keys[part]])  # type: ignore[index]

    def _evaluated(self, chosen: Tensor) -> Batch:
        maps = self._dataset.maps[chosen].where((chosen >= 0)[:, None, None], UNCOUNTED)
        return normalized(self._dataset.images[chosen], self.mean, self.std), maps

    def _augmented(self, samples: list[tuple[Tensor, Tensor]]) -> Batch:
        images, maps = (torch.stack(list(parts)) for parts in zip(*samples, strict=True))
        return normalized(images, self.mean, self.std), maps
