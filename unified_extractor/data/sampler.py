"""The order of the training images, and their augmentation, as a function of seed and epoch alone."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Dataset, DistributedSampler


class EpochSampler(DistributedSampler[tuple[int, int]]):
    """Shuffles by (seed, epoch) and gives every image a seed of its own for its augmentation: ``(index, image_seed)``.

    Nothing is drawn from the global generator, so that a run resumed at an epoch sees what an unbroken run sees, whatever the
    number of workers or devices. Lightning calls ``set_epoch``.
    """

    def __init__(self, dataset: Dataset[object], *, seed: int, num_replicas: int, rank: int) -> None:
        # the parent shuffles by seed + epoch: seeds a thousand apart, so that no two runs share an order
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=True, seed=1000 * seed)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        seeds = torch.randint(2**62, (len(self.dataset),), generator=generator).tolist()  # type: ignore[arg-type]
        index: Any
        for index in super().__iter__():
            yield index, seeds[index]
