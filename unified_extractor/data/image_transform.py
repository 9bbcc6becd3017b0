"""The transform of a trained network: an image as a file, of Pillow or as a tensor, brought to what the network was trained on."""

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from unified_extractor.data.image_datasets import ImageFormat, in_format, normalized, pixels, read_image
from unified_extractor.data.segmented_images import resized_image
from unified_extractor.task import ImageTask


@dataclass(frozen=True)
class ImageTransform:
    """A function from one image to the normalized tensor ``[C, H, W]`` of a network, by the network's task.

    The image is a file's name, an image of Pillow, or a uint8 tensor [C, h, w] with as many channels as the network takes. For
    classification its shorter side is resized and its center cropped, for segmentation it is resized as a whole, as in training.
    """

    task: ImageTask

    def __call__(self, image: str | Path | Image.Image | Tensor) -> Tensor:
        """Return the image as float32 [C, H, W].

        Raises:
            DataError: the file is not a readable image.
            TypeError, ValueError: the image is no image, or a tensor of another type or shape.
        """
        mean, std = self.task.mean, self.task.std
        return normalized(self._sized(image)[None], mean, std)[0]

    def _sized(self, image: str | Path | Image.Image | Tensor) -> Tensor:
        size, resize = self.task.image_size, self.task.resize
        if self.task.colors is None and isinstance(size, int):  # a label for the whole image
            return self._read(image, ImageFormat(len(self.task.mean), size, resize))
        height, width = (size, size) if isinstance(size, int) else size
        return resized_image(self._read(image, ImageFormat(len(self.task.mean), 1, whole=True)), (height, width))

    def _read(self, image: str | Path | Image.Image | Tensor, format: ImageFormat) -> Tensor:
        if isinstance(image, str | Path):
            return read_image(Path(image), format)
        if isinstance(image, Image.Image):
            return in_format(pixels(image, format.in_chans), format)
        if not isinstance(image, Tensor):
            raise TypeError(f"image must be a file, an image of Pillow or a tensor, got {type(image).__name__}")
        if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != format.in_chans:
            raise ValueError(f"image must be uint8 [{format.in_chans}, h, w], got {image.dtype} {list(image.shape)}")
        return in_format(image, format)
