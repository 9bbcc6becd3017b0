"""Labelled images as datasets of ``(image, label)``: uint8 [C, S, S] and a class index. Normalisation is the batch's business."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as transform

from unified_extractor.data.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What counts as an image file, in lower case."""


class MemoryImages(Dataset[tuple[Tensor, int]]):
    """Images that are held in memory: ``images`` uint8 [N, C, S, S], ``labels`` int64 [N]."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


class FileImages(Dataset[tuple[Tensor, int]]):
    """Images that are decoded each time they are needed. ``labels`` int64 [N]."""

    def __init__(self, paths: Sequence[Path], labels: Tensor, *, in_chans: int, image_size: int) -> None:
        self.paths, self.labels = list(paths), labels
        self.in_chans, self.image_size = in_chans, image_size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return read_image(self.paths[index], self.in_chans, self.image_size), int(self.labels[index])

    def in_memory(self) -> MemoryImages:
        """All images decoded once. Raises ``DataError`` for the first that cannot be read."""
        with ThreadPoolExecutor() as threads:
            images = list(threads.map(lambda path: read_image(path, self.in_chans, self.image_size), self.paths))
        return MemoryImages(torch.stack(images), self.labels)

    @property
    def bytes(self) -> int:
        """Memory the decoded images would take."""
        return len(self) * self.in_chans * self.image_size**2


class NamedImages(Dataset[tuple[Tensor, str]]):
    """Images without a label, with the name of their file: what ``predict`` reads."""

    def __init__(self, paths: Sequence[Path], *, in_chans: int, image_size: int) -> None:
        self.paths, self.in_chans, self.image_size = list(paths), in_chans, image_size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        return read_image(self.paths[index], self.in_chans, self.image_size), str(self.paths[index])


class AugmentedImages(Dataset[tuple[Tensor, int]]):
    """Training images, augmented: indexed by ``(index, image_seed)`` as the ``EpochSampler`` gives them."""

    def __init__(self, dataset: Dataset[tuple[Tensor, int]], augmentation: Callable[[Tensor], Tensor]) -> None:
        self.dataset, self.augmentation = dataset, augmentation

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        index, image_seed = key
        image, label = self.dataset[index]
        generator = torch.default_generator  # torchvision's transforms draw from it
        state = generator.get_state()
        generator.manual_seed(image_seed)  # not torch.manual_seed: it seeds CUDA too, at many times the cost
        try:
            return self.augmentation(image), label
        finally:
            generator.set_state(state)


def image_files(folder: Path) -> list[Path]:
    """Every image file in ``folder`` and below, sorted. Raises ``DataError`` if there is none."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())
    if not files:
        raise DataError(f"{folder}: no images in this folder, looked for {' '.join(EXTENSIONS)}")
    return files


def read_image(path: Path, in_chans: int, image_size: int) -> Tensor:
    """One image file as uint8 [in_chans, image_size, image_size]: shorter side resized to ``image_size``, centre cropped.

    ``in_chans`` is 1 (grey) or 3 (RGB). Raises ``DataError`` if the file is not a readable image.
    """
    try:
        with Image.open(path) as file:
            pixels = np.array(file.convert("L" if in_chans == 1 else "RGB"))
    except Exception as error:  # Pillow's decoders raise whatever the damaged bytes make them raise
        raise DataError(f"{path}: not a readable image ({type(error).__name__}: {error})".replace("\n", " ")) from error
    image = torch.from_numpy(pixels).reshape(*pixels.shape[:2], in_chans).permute(2, 0, 1).contiguous()
    if image.shape[1:] == (image_size, image_size):
        return image
    return transform.center_crop(transform.resize(image, [image_size], antialias=True), [image_size])
