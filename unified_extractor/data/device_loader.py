"""A loader for images that lie on the device as one tensor: a batch is an indexing of it, augmentation included."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unified_extractor.data.augmentation import DRAWS, Augmentation, augment_batch
from unified_extractor.data.image_datasets import MemoryImages, normalized
from unified_extractor.data.samplers import EpochSampler, EvaluationSampler


class DeviceLoader:
    """A loader of ``images`` float32 [B, C, S, S], normalized, and ``labels`` int64 [B], -1 for an image that only fills up a
    batch.

    The loader's position within an epoch is part of Lightning's checkpoints.

    Args:
        dataset: images, uint8.
        sampler: sampler of their order; Lightning sets its epoch.
        batch_size: images of a batch; in training an incomplete last batch is left out.
        mean: mean of each channel, as a fraction of the full range.
        std: standard deviation of each channel, as a fraction of the full range.
        augmentation: augmentation of training images, or ``None`` for evaluation.
        device: device that holds the images.
    """

    batch_sampler = None  # Lightning asks for it where there is a sampler

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
        self.sampler, self.batch_size, self.mean, self.std, self.augmentation = sampler, batch_size, mean, std, augmentation
        padding = augmentation.crop_padding if augmentation is not None else 0
        self._images = F.pad(dataset.images.to(device), (padding,) * 4) if padding else dataset.images.to(device)
        self._labels = dataset.labels.to(device)
        self._epoch, self._given, self._resumed = -1, 0, False

    def __len__(self) -> int:
        full, left = divmod(len(self.sampler), self.batch_size)
        return full + (left > 0 and self.augmentation is None)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        first = self._given if self._resumed and self._epoch == self.sampler.epoch else 0
        self._epoch, self._given, self._resumed = self.sampler.epoch, first, False
        order = self.sampler.order()
        draws = None
        if self.augmentation is not None and isinstance(self.sampler, EpochSampler):
            draws = self.sampler.draws(DRAWS)[order].to(self._images.device)
        order = order.to(self._images.device)
        for number in range(first, len(self)):
            part = slice(number * self.batch_size, (number + 1) * self.batch_size)
            self._given = number + 1
            yield self._batch(order[part], None if draws is None else draws[part])

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch and the number of its batches that have been given out."""
        return {"epoch": self._epoch, "given": self._given}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the position: iterating that epoch again continues there."""
        self._epoch, self._given, self._resumed = state_dict["epoch"], state_dict["given"], True

    def _batch(self, chosen: Tensor, draws: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.augmentation is None or draws is None:
            return normalized(self._images[chosen], self.mean, self.std), self._labels[chosen].where(chosen >= 0, -1)
        crops, erased = augment_batch(self._images, chosen, draws, self.augmentation)
        batch = normalized(crops, self.mean, self.std)
        return batch if erased is None else batch.masked_fill_(erased, 0.0), self._labels[chosen]
