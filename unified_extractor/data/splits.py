"""Splits of a labeled data set: the same on every machine, with the same share of every class."""

import torch
from torch import Tensor

SPLIT_SEED = 20210619
"""Seed of all splits. It is fixed, so that validation images never depend on the seed of a run."""


def stratified_split(labels: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """Return the indices [N'] of two parts, both ascending: the rest, and ``fraction`` of each class, at least one image each.

    ``labels`` are [N] int64. Raise ``ValueError`` if ``fraction`` is not between 0 and 1, or if a class has a single image.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"a split fraction must lie between 0 and 1, got {fraction}")
    taken = torch.zeros(len(labels), dtype=torch.bool)
    for members in _shuffled_members(labels):
        if len(members) < 2:
            raise ValueError(f"a class needs two images to be split, got {len(members)}")
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        taken[members[:count]] = True
    return (~taken).nonzero().flatten(), taken.nonzero().flatten()


def random_split(count: int, fraction: float) -> tuple[Tensor, Tensor]:
    """Return the indices of two parts of ``count`` images, both ascending: the rest, and ``fraction`` of them, at least one.

    Raise ``ValueError`` for fewer than two images.
    """
    if count < 2:
        raise ValueError(f"at least two images are needed to be split, got {count}")
    taken = torch.zeros(count, dtype=torch.bool)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(SPLIT_SEED))
    taken[order[: min(max(1, round(fraction * count)), count - 1)]] = True
    return (~taken).nonzero().flatten(), taken.nonzero().flatten()


def balanced_subset(labels: Tensor, per_class: int) -> Tensor:
    """Return ascending indices of at most ``per_class`` images of each class; a larger subset contains the smaller.
    ``labels`` [N]."""
    if per_class < 1:
        raise ValueError(f"per_class must be at least 1, got {per_class}")
    return torch.cat([members[:per_class] for members in _shuffled_members(labels)]).sort().values


def _shuffled_members(labels: Tensor) -> list[Tensor]:
    """Return the indices of the images of each class, in a fixed random order."""
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    order = torch.randperm(len(labels), generator=generator)
    return [order[labels[order] == label] for label in labels.unique()]
