"""The overlap of predictions and labels in every test image: pixels of intersection and union of each class, as a row's text."""

import base64
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Overlaps = NDArray[np.int32]
"""Pixels [images, classes, 2]: the intersection of what was predicted and what is labeled, and their union."""
_LITTLE_ENDIAN = np.dtype("<i4")


def packed(overlaps: NDArray[Any]) -> str:
    """Return base64 of the compressed numbers, 32 bits each, little endian, the last axis fastest."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(overlaps, dtype=_LITTLE_ENDIAN).tobytes(), 9)).decode()


def unpacked(text: str, images: int) -> Overlaps:
    """Return the overlaps of ``images`` images. Raises ``ValueError`` for a text that does not hold as many."""
    try:
        numbers = np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), dtype=_LITTLE_ENDIAN)
    except zlib.error as error:
        raise ValueError(f"the overlaps of {images} images cannot be read: {error}") from error
    if not images or not len(numbers) or len(numbers) % (2 * images):
        raise ValueError(f"the overlaps of {images} images must be two numbers for each class of each, got {len(numbers)} in all")
    return numbers.reshape(images, -1, 2)


def mean_iou(overlaps: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean over classes of intersection over union, ``[...]`` for sums over images ``[..., classes, 2]``.

    A class that neither labels nor predictions have is left out; where no class is there, the mean is 0.
    """
    intersection, union = np.asarray(overlaps, dtype=np.float64).transpose(-1, *range(overlaps.ndim - 1))
    there = union > 0
    shares = np.divide(intersection, union, out=np.zeros_like(union), where=there)
    result: NDArray[np.float64] = shares.sum(-1) / np.maximum(there.sum(-1), 1)
    return result
