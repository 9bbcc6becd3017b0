"""Datasets of labeled images: uint8 [C, S, S] and a class index. Whole batches are normalized later."""

import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as transform

from unified_extractor.data.errors import DataError

MEMORY_LIMIT = 2 * 2**30
"""Bytes of decoded images up to which a split is held in memory: decoding small files costs more than training on them."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The turn for each value of EXIF's orientation but 1, upright."""


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

    def __init__(self, paths: Sequence[Path], labels: Tensor, format: "ImageFormat") -> None:
        self.paths, self.labels, self.format = list(paths), labels, format

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return read_image(self.paths[index], self.format), int(self.labels[index])

    def in_memory(self) -> MemoryImages:
        """Return all images, decoded once. Raise ``DataError`` for the first that cannot be read."""
        with ThreadPoolExecutor() as threads:
            images = list(threads.map(lambda path: read_image(path, self.format), self.paths))
        return MemoryImages(torch.stack(images), self.labels)

    @property
    def bytes(self) -> int:
        """Bytes of memory that the decoded images would take."""
        return len(self) * self.format.in_chans * self.format.size**2


class UnlabeledImages(Dataset[tuple[Tensor, str, str]]):
    """Images without labels for ``predict``, each with the name of its file and an empty text.

    In place of an unreadable image stands a black one, with the reason as its text.
    """

    def __init__(self, paths: Sequence[Path], format: "ImageFormat") -> None:
        self.paths, self.format = list(paths), format

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, str, str]:
        path = self.paths[index]
        try:
            return read_image(path, self.format), str(path), ""
        except DataError as error:
            black = torch.zeros(self.format.in_chans, self.format.size, self.format.size, dtype=torch.uint8)
            return black, str(path), str(error).removeprefix(f"{path}: ")


class EvaluatedImages(Dataset[tuple[Tensor, Any]]):
    """A split as ``EvaluationSampler`` indexes it: index -1 gives an image with an :func:`uncounted` label."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        image, label = self.dataset[max(index, 0)]
        return image, label if index >= 0 else uncounted(label)


UNCOUNTED = 255
"""The value of a label map's pixels that count for nothing."""


def uncounted(label: int | Tensor) -> int | Tensor:
    """Return a label of the same kind that counts for nothing: -1 for a class, a map of :data:`UNCOUNTED` for a label map."""
    return torch.full_like(label, UNCOUNTED) if isinstance(label, Tensor) else -1


class AugmentedImages(Dataset[Any]):
    """Training images with their labels, augmented together, indexed by the pairs ``(index, image_seed)`` of ``EpochSampler``."""

    def __init__(self, dataset: Dataset[Any], augmentation: Callable[..., Any]) -> None:
        self.dataset, self.augmentation = dataset, augmentation

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: tuple[int, int]) -> Any:
        index, image_seed = key
        sample = self.dataset[index]
        generator = torch.default_generator  # torchvision's transforms draw from it
        state = generator.get_state()
        generator.manual_seed(image_seed)  # not torch.manual_seed: it seeds CUDA too, at many times the cost
        try:
            return self.augmentation(*sample)
        finally:
            generator.set_state(state)


@dataclass(frozen=True)
class ImageFormat:
    """Channels and size to which an image file is brought.

    Attributes:
        in_chans: 1 for gray, 3 for RGB.
        size: height and width of the center crop, in pixels.
        resize: length of the shorter side before the crop, in pixels; by default ``size``.
        whole: leave the image neither resized nor cropped, so that a random crop can choose from all of it.
    """

    in_chans: int
    size: int
    resize: int | None = None
    whole: bool = False


def read_image(path: Path, format: ImageFormat) -> Tensor:
    """Return an image file as uint8 [in_chans, size, size], upright as its EXIF orientation says and with white behind what is
    transparent.

    Gray levels of 16 bits are scaled to 8. Of a file with several images the first is read.

    Raises:
        DataError: the file is not a readable image, or its gray levels have no known range.
    """
    try:
        # a path would be mapped into memory, where Pillow turns gray TIFF files wrongly
        with path.open("rb") as file, Image.open(file) as opened:
            image = pixels(opened, format.in_chans)
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: not a readable image (of a format that is not known)") from error
    except Exception as error:  # Pillow's decoders raise whatever the damaged bytes make them raise
        raise DataError(f"{path}: not a readable image ({type(error).__name__}: {error})".replace("\n", " ")) from error
    return in_format(image, format)


def pixels(image: Image.Image, in_chans: int) -> Tensor:
    """Return an image of Pillow as uint8 [in_chans, H, W], upright and with white behind what is transparent.

    Raises:
        ValueError: its gray levels have no known range.
    """
    image.load()  # TIFF files turn themselves, and then say that they are upright
    turn = _turn(image)
    upright = _eight_bits(image)
    upright = upright.transpose(turn) if turn is not None else upright
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    values = np.array(upright.convert("L" if in_chans == 1 else "RGB"))
    return torch.from_numpy(values).reshape(*values.shape[:2], in_chans).permute(2, 0, 1).contiguous()


def in_format(image: Tensor, format: ImageFormat) -> Tensor:
    """Return an image uint8 [C, h, w] resized and cropped to a format."""
    shorter = format.resize or format.size
    if format.whole or (shorter == format.size and image.shape[1:] == (format.size, format.size)):
        return image
    return transform.center_crop(transform.resize(image, [shorter], antialias=True), [format.size])


def _eight_bits(file: Image.Image) -> Image.Image:
    """Return an image whose gray levels have eight bits. Raise ``ValueError`` if nothing says which level is white."""
    sixteen = file.mode.startswith("I;16") or (file.mode == "I" and file.format in ("PNG", "PPM"))
    if not sixteen:
        if file.mode in ("I", "F"):
            raise ValueError(f"{file.mode} images have no range of gray levels")
        return file
    return Image.fromarray((np.array(file) // 257).astype(np.uint8))  # converting it would cut at 255


def _turn(file: Image.Image) -> Image.Transpose | None:
    """Return how an image must be turned or mirrored to stand upright, or ``None``, also if its EXIF data are damaged.

    Pillow's ``exif_transpose`` writes the EXIF data again, which fails for tags that only some camera knows.
    """
    try:
        return _TURNS.get(file.getexif().get(ExifTags.Base.Orientation, 1))
    except (SyntaxError, ValueError, TypeError, struct.error):
        return None


def normalized(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return images uint8 [B, C, H, W] as a network sees them: float32, each channel with the given mean and std removed."""
    scale, shift = (_constant(tuple(values), images.device) for values in (std, mean))
    return (images.float() / 255 - shift) / scale


@lru_cache(maxsize=16)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return one value for each channel, [C, 1, 1]. It is created only once, because creating it makes the host wait for a
    GPU."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device).reshape(-1, 1, 1)
