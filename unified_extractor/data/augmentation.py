"""Augmentation of training images: one image at a time with torchvision, or a whole batch at once on the device."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import v2

DRAWS = 8
"""Number of uniform random numbers that :func:`augment_batch` needs for each image."""
_ERASED_AREA, _ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)  # torchvision's defaults


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The augmentation of training images. Everything is off by default.

    Attributes:
        crop_padding: pixels of zeros around an image before a random crop of the image's own size.
        resized_crop: smallest area of a random crop as a fraction of the image's, at most 1; the crop is resized to the image size.
        flip: mirror half of the images.
        randaugment_magnitude: strength of torchvision's RandAugment, 0 to 30.
        randaugment_operations: number of RandAugment's operations for each image.
        color_jitter: largest change of brightness, contrast and saturation, as a fraction.
        erasing: probability that a random box, 2 to 33 % of the area, is set to the mean color.
    """

    crop_padding: int = 0
    resized_crop: float | None = None
    flip: bool = False
    randaugment_magnitude: int | None = None
    randaugment_operations: int = 2
    color_jitter: float = 0.0
    erasing: float = 0.0

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise ValueError(f"crop_padding must not be negative, got {self.crop_padding}")
        if self.resized_crop is not None and not 0 < self.resized_crop <= 1:
            raise ValueError(f"resized_crop must lie in (0, 1], got {self.resized_crop}")
        if self.resized_crop is not None and self.crop_padding:
            raise ValueError(f"crop_padding={self.crop_padding} and resized_crop={self.resized_crop} both crop: one must be off")
        if self.randaugment_magnitude is not None and not 0 <= self.randaugment_magnitude <= 30:
            raise ValueError(f"randaugment_magnitude must lie in 0..30, got {self.randaugment_magnitude}")
        if self.randaugment_operations < 1:
            raise ValueError(f"randaugment_operations must be at least 1, got {self.randaugment_operations}")
        for name, value in (("color_jitter", self.color_jitter), ("erasing", self.erasing)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {value}")

    def changed(self) -> list[str]:
        """Return the settings that are not defaults, as ``name=value``."""
        return [f"{name}={value}" for name, value in vars(self).items() if value != getattr(Augmentation, name)]

    @property
    def batched(self) -> bool:
        """True if :func:`augment_batch` can do all of it, a whole batch at once."""
        return self.resized_crop is None and self.randaugment_magnitude is None and not self.color_jitter

    def transform(self, image_size: int, mean: Sequence[float]) -> v2.Transform:
        """Return the augmentation of one uint8 image [C, H, W], by torchvision; it draws from torch's global random
        generator."""
        steps: list[v2.Transform] = []
        if self.resized_crop is not None:
            steps.append(v2.RandomResizedCrop(image_size, scale=(self.resized_crop, 1.0), antialias=True))
        if self.crop_padding:
            steps.append(v2.RandomCrop(image_size, padding=self.crop_padding))
        if self.flip:
            steps.append(v2.RandomHorizontalFlip())
        if self.randaugment_magnitude is not None:
            steps.append(v2.RandAugment(self.randaugment_operations, self.randaugment_magnitude))
        if self.color_jitter:
            steps.append(v2.ColorJitter(*[self.color_jitter] * 3))
        if self.erasing:
            color = [round(255 * value) for value in mean]
            steps.append(v2.RandomErasing(self.erasing, _ERASED_AREA, _ERASED_RATIO, value=color))
        return v2.Compose(steps or [v2.Identity()])


def augment_batch(images: Tensor, chosen: Tensor, draws: Tensor, augmentation: Augmentation) -> tuple[Tensor, Tensor | None]:
    """Return random crops of a batch, flipped at random, and the boxes to erase in them.

    Args:
        images: all images with their padding, uint8 [N, C, S + 2 * crop_padding, S + 2 * crop_padding].
        chosen: indices of the batch's images, int64 [B].
        draws: random numbers of each image of the batch, float32 [B, DRAWS], uniform in [0, 1).
        augmentation: settings of the augmentation.

    Returns:
        The crops, uint8 [B, C, S, S], and the pixels to erase in them, bool [B, 1, S, S], or ``None`` if nothing is erased.
    """
    padding = augmentation.crop_padding
    size = images.shape[-1] - 2 * padding
    along = torch.arange(size, device=images.device)
    shift = (draws[:, :2] * (2 * padding + 1)).long()
    rows, columns = (along + shift[:, axis, None] for axis in (0, 1))
    if augmentation.flip:
        columns = torch.where(draws[:, 2, None] < 0.5, columns.flip(1), columns)
    if padding or augmentation.flip:
        channels = torch.arange(images.shape[1], device=images.device)[:, None, None]
        crops = images[chosen[:, None, None, None], channels, rows[:, None, :, None], columns[:, None, None, :]]
    else:
        crops = images[chosen]
    return crops, _boxes(draws[:, 3:], size, along, augmentation.erasing) if augmentation.erasing else None


def _boxes(draws: Tensor, size: int, along: Tensor, probability: float) -> Tensor:
    """Return the pixels to erase, bool [B, 1, S, S]: a box of random area and aspect ratio at a random place, or none."""
    happens, place, ratio = draws[:, 0] < probability, draws[:, 3:], torch.tensor(_ERASED_RATIO).log()
    area = (_ERASED_AREA[0] + (_ERASED_AREA[1] - _ERASED_AREA[0]) * draws[:, 1]) * size**2
    aspect = (ratio[0] + (ratio[1] - ratio[0]) * draws[:, 2]).exp()
    sides = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], 1).round().long().clamp(1, size)
    first = (place * (size - sides + 1)).long()
    inside = (along >= first[..., None]) & (along < (first + sides)[..., None])
    return (inside[:, 0, :, None] & inside[:, 1, None, :] & happens[:, None, None])[:, None]
