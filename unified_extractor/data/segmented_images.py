"""Datasets of images with label maps: uint8 [C, H, W] and uint8 [H, W], whose pixels are indices of classes."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as transform

from unified_extractor.data.errors import DataError
from unified_extractor.data.image_datasets import UNCOUNTED, ImageFormat, UnlabeledImages, read_image

Sample = tuple[tv_tensors.Image, tv_tensors.Mask]
_INDEX_MODES = ("1", "L", "P", "I", "I;16")
"""Pillow's names of the image modes whose pixels are single whole numbers."""


class MemorySegmentedImages(Dataset[Sample]):
    """Images and label maps that are held in memory: ``images`` uint8 [N, C, H, W], ``maps`` uint8 [N, H, W]."""

    def __init__(self, images: Tensor, maps: Tensor) -> None:
        self.images, self.maps = images, maps

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return tv_tensors.Image(self.images[index]), tv_tensors.Mask(self.maps[index])


class SegmentedFiles(Dataset[Sample]):
    """Images and label maps that are decoded each time they are needed, and resized to one size.

    Args:
        images: image files.
        maps: files of their label maps, in the same order.
        in_chans: 1 for gray, 3 for RGB.
        size: height and width of what is returned, in pixels.
        num_classes: number of classes; the pixels of maps are 0 to ``num_classes - 1``.
        ignore_index: value in the files of the pixels that count for nothing; they are returned as ``UNCOUNTED``.
    """

    def __init__(
        self,
        images: Sequence[Path],
        maps: Sequence[Path],
        *,
        in_chans: int,
        size: tuple[int, int],
        num_classes: int,
        ignore_index: int,
    ) -> None:
        self.files, self.maps = list(images), list(maps)
        self.format, self.size = ImageFormat(in_chans, 1, whole=True), size
        self.num_classes, self.ignore_index = num_classes, ignore_index

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        image, labels = read_image(self.files[index], self.format), self._of_file(index)
        if image.shape[1:] != labels.shape:
            sizes = [f"{file} is {height}x{width}" for file, (height, width) in self._sizes(index, image, labels)]
            raise DataError(f"{' and '.join(sizes)} (height x width): an image and its label map must have one size")
        return tv_tensors.Image(resized_image(image, self.size)), tv_tensors.Mask(self._resized(labels))

    def label_map(self, index: int) -> Tensor:
        """Return a label map, uint8 [H, W]. Raise ``DataError`` if a pixel has another value than a class."""
        return self._resized(self._of_file(index))

    def _resized(self, labels: Tensor) -> Tensor:
        return labels if labels.shape == self.size else transform.resize_mask(labels[None], list(self.size))[0]

    def _of_file(self, index: int) -> Tensor:
        """Return a label map at the file's size."""
        file = self.maps[index]
        values = read_label_map(file)
        classes, ignored = (values >= 0) & (values < self.num_classes), values == self.ignore_index
        if not (classes | ignored).all():
            wrong = values[~(classes | ignored)]
            raise DataError(
                f"{file}: label {wrong[0]} is neither a class, 0 to {self.num_classes - 1}, nor ignore_index, {self.ignore_index}; "
                f"such values are in {len(wrong):,} of the map's {values.size:,} pixels"
            )
        return torch.from_numpy(np.where(ignored, UNCOUNTED, values).astype(np.uint8))

    def in_memory(self) -> MemorySegmentedImages:
        """Return all images and maps, decoded once. Raise ``DataError`` for the first that cannot be used."""
        with ThreadPoolExecutor() as threads:
            images, maps = zip(*threads.map(self.__getitem__, range(len(self))), strict=True)
        return MemorySegmentedImages(torch.stack(images), torch.stack(maps))

    @property
    def bytes(self) -> int:
        """Bytes of memory that the decoded images and maps would take."""
        return len(self) * (self.format.in_chans + 1) * self.size[0] * self.size[1]

    def _sizes(self, index: int, image: Tensor, labels: Tensor) -> list[tuple[Path, Sequence[int]]]:
        return [(self.files[index], image.shape[1:]), (self.maps[index], labels.shape)]


class UnlabeledSizedImages(UnlabeledImages):
    """Images of any size for ``predict``, resized to the network's, each with its file, an empty text, and its own height and width."""

    def __init__(self, paths: Sequence[Path], in_chans: int, size: tuple[int, int]) -> None:
        super().__init__(paths, ImageFormat(in_chans, 1, whole=True))
        self.size = size

    def __getitem__(self, index: int) -> Any:
        image, file, error = super().__getitem__(index)
        return resized_image(image, self.size), file, error, torch.tensor(image.shape[1:])


def resized_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Return an image uint8 [C, h, w] resized to (H, W), whatever its proportions."""
    return image if image.shape[1:] == size else transform.resize_image(image, list(size), antialias=True)


def read_label_map(path: Path) -> np.ndarray:
    """Return the whole numbers in the pixels of a file, [H, W]: its gray levels, or the indices into its palette.

    Raises:
        DataError: the file is not a readable image, or has colors instead of numbers.
    """
    try:
        with path.open("rb") as file, Image.open(file) as opened:
            mode, values = opened.mode, np.array(opened).astype(np.int64)
    except Exception as error:  # Pillow's decoders raise whatever the damaged bytes make them raise
        raise DataError(f"{path}: not a readable label map ({type(error).__name__}: {error})".replace("\n", " ")) from error
    if mode not in _INDEX_MODES:
        raise DataError(
            f"{path}: a label map must have a class's index in each pixel, as gray levels or by a palette, got mode {mode}"
        )
    return values
