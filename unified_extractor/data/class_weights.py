"""Weights of classes in the loss of segmentation, by published rules from how many pixels each has."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from unified_extractor.data.segmented_images import MemorySegmentedImages, SegmentedFiles

WeightRule = Literal["none", "median_frequency", "inverse_log"]


@dataclass(frozen=True)
class PixelCounts:
    """The labeled pixels of training images.

    Attributes:
        of_class: pixels of each class, int64 [C].
        where_present: labeled pixels of those images in which each class is present, int64 [C].
    """

    of_class: Tensor
    where_present: Tensor


def count_pixels(images: MemorySegmentedImages | SegmentedFiles, num_classes: int) -> PixelCounts:
    """Return the pixel counts of a split at the size of its images, in memory or not."""
    if isinstance(images, MemorySegmentedImages):
        counts = [_counts(labels, num_classes) for labels in images.maps]
    else:
        with ThreadPoolExecutor() as threads:
            counts = list(threads.map(lambda index: _counts(images.label_map(index), num_classes), range(len(images))))
    table = torch.stack(counts)
    return PixelCounts(table.sum(0), (table.sum(1, keepdim=True) * (table > 0)).sum(0))


def weights_of_classes(counts: PixelCounts, rule: WeightRule) -> Tensor:
    """Return the weight of each class in the loss, float32 [C].

    With ``p`` for a class's share of all pixels and ``f`` for its share of the pixels of the images in which it is present:

    * ``median_frequency``: the median of all f, divided by f (Eigen and Fergus, ICCV 2015).
    * ``inverse_log``: 1 / ln(1.02 + p) (Paszke et al., ENet, 2016).
    * ``none``: 1.

    A class without any pixel has the weight 0 by the first rule, and no say in the median.
    """
    of_class, where_present = counts.of_class.double(), counts.where_present.double()
    if rule == "median_frequency":
        there = of_class > 0
        frequency = of_class / where_present.clamp(min=1)
        weights = torch.where(there, frequency[there].quantile(0.5) / frequency.where(there, 1.0), 0.0)
    elif rule == "inverse_log":
        weights = 1 / torch.log(1.02 + of_class / of_class.sum())
    else:
        weights = torch.ones_like(of_class)
    return weights.float()


def _counts(labels: Tensor, num_classes: int) -> Tensor:
    return torch.bincount(labels.flatten().int(), minlength=256)[:num_classes]
