"""The mean and the standard deviation of training images, by which images are normalized."""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from unified_extractor.data.errors import DataError
from unified_extractor.data.image_datasets import FileImages, MemoryImages
from unified_extractor.data.segmented_images import MemorySegmentedImages, SegmentedFiles

Images = MemoryImages | FileImages | MemorySegmentedImages | SegmentedFiles

SAMPLE = 5000
"""Largest number of image files that are read for the statistics; they are spread evenly over the data set."""


def mean_and_std(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the standard deviation of each channel as fractions of the full range, rounded to four digits.

    Raises:
        DataError: a channel has one value everywhere, or an image cannot be read.
    """
    if isinstance(images, MemoryImages | MemorySegmentedImages):
        counts = _counts(images.images)
    else:
        chosen = torch.linspace(0, len(images) - 1, min(SAMPLE, len(images))).long().tolist()
        with ThreadPoolExecutor() as threads:
            counts = sum(threads.map(lambda index: _counts(images[index][0][None]), chosen), torch.tensor(0))
    levels, shares = torch.arange(256) / 255, counts.double() / counts.sum(1, keepdim=True)
    mean = shares @ levels.double()
    std = (shares @ levels.double().square() - mean.square()).clamp(min=0).sqrt()
    if (std < 1e-4).any():
        raise DataError("the training images have one value everywhere in a channel: give mean and std", "mean")
    return _rounded(mean), _rounded(std)


def _counts(images: Tensor) -> Tensor:
    """Return the number of pixels at each of 256 levels, int64 [C, 256], of images uint8 [N, C, H, W]."""
    return torch.stack([images[:, channel].flatten().bincount(minlength=256) for channel in range(images.shape[1])])


def _rounded(values: Tensor) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in values.tolist())
