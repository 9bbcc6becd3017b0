"""Samplers that make the order of images, and the random numbers of their augmentation, depend on seed and epoch alone."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler


class EpochSampler(DistributedSampler[tuple[int, int]]):
    """A sampler that shuffles by (seed, epoch) and gives each image its own seed for the augmentation: ``(index, image_seed)``.

    Nothing is drawn from the global generator, so a run resumed at an epoch gets the same images as an unbroken run, whatever the
    number of workers or devices. Lightning calls ``set_epoch``. Ranks take turns; images that do not fill a turn are left out.
    """

    def __init__(self, dataset: Dataset[object], *, seed: int, num_replicas: int, rank: int) -> None:
        # the base class shuffles by seed + epoch: seeds a thousand apart, so that no two runs share an order
        super().__init__(
            dataset, num_replicas=num_replicas, rank=rank, shuffle=True, seed=1000 * seed, drop_last=num_replicas > 1
        )

    def __iter__(self) -> Iterator[tuple[int, int]]:
        seeds = torch.randint(2**62, (len(self.dataset),), generator=self._generator()).tolist()  # type: ignore[arg-type]
        for index in self.order().tolist():
            yield index, seeds[index]

    def order(self) -> Tensor:
        """Return the indices of this rank's images in this epoch."""
        indices: Iterator[Any] = super().__iter__()
        return torch.tensor(list(indices))

    def draws(self, count: int) -> Tensor:
        """Return ``count`` uniform random numbers for each image of the data set in this epoch, float32 [N, count]."""
        return torch.rand(len(self.dataset), count, generator=self._generator())  # type: ignore[arg-type]

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed + self.epoch)


class EvaluationSampler(DistributedSampler[int]):
    """A sampler of all images in order, each once over all ranks. ``-1`` fills up the end, so that all ranks have the same
    number."""

    def __init__(self, dataset: Dataset[object], *, num_replicas: int, rank: int) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=False)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order().tolist())

    def order(self) -> Tensor:
        """Return the indices of this rank's images, ``-1`` where there is none."""
        indices = torch.arange(self.rank, self.total_size, self.num_replicas)
        return indices.where(indices < len(self.dataset), torch.tensor(-1))  # type: ignore[arg-type]
