"""Augmentation of images together with their label maps, by torchvision's transforms of both."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from typing_extensions import override

from unified_extractor.data.image_datasets import UNCOUNTED


class PadToCrop(v2.Transform):
    """A transform that pads what is smaller than a crop on both sides by the difference, as ``v2.RandomCrop(pad_if_needed=True)`` does.

    That one makes a tensor of the color at each call, which makes the host wait for a GPU.

    Args:
        size: height and width of the crop, in pixels.
        color: color around an image; around a label map is what counts for nothing.
    """

    def __init__(self, size: tuple[int, int], color: tuple[int, ...]) -> None:
        super().__init__()
        self.size, self.color = size, color

    @override
    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        (height, width), image = inpt.shape[-2:], isinstance(inpt, tv_tensors.Image)
        y, x = max(self.size[0] - height, 0), max(self.size[1] - width, 0)
        if not (y or x):
            return inpt
        color = _pixel(self.color, inpt.device) if image else inpt.new_full((1, 1), UNCOUNTED)
        padded = color.expand(*inpt.shape[:-2], height + 2 * y, width + 2 * x).clone()
        padded[..., y : y + height, x : x + width] = inpt
        return tv_tensors.wrap(padded, like=inpt)


@lru_cache(maxsize=16)
def _pixel(color: tuple[int, ...], device: torch.device) -> Tensor:
    """Return a pixel of a color, uint8 [C, 1, 1], created only once."""
    with torch.inference_mode(False):
        return torch.tensor(color, dtype=torch.uint8, device=device).reshape(-1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class JointAugmentation:
    """The augmentation of training images and of their label maps. Everything is off by default.

    Attributes:
        scale: smallest and largest factor by which an image is resized at random before the crop, such as (0.5, 2.0).
        crop: height and width of a random crop, in pixels; by default, and where nothing is scaled, those of the image. Beyond the
            image the crop has the mean color and counts for nothing.
        flip: mirror half of the images.
        color_jitter: largest change of brightness, contrast and saturation, as a fraction.
    """

    scale: tuple[float, float] | None = None
    crop: tuple[int, int] | None = None
    flip: bool = False
    color_jitter: float = 0.0

    def __post_init__(self) -> None:
        for name in ("scale", "crop"):  # files hold lists
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale must be two positive factors, the smaller one first, got {list(self.scale)}")
        if self.crop is not None and min(self.crop) < 1:
            raise ValueError(f"crop must be at least 1 pixel high and wide, got {list(self.crop)}")
        if not 0 <= self.color_jitter <= 1:
            raise ValueError(f"color_jitter must lie in [0, 1], got {self.color_jitter}")

    def changed(self) -> list[str]:
        """Return the settings that are not defaults, as ``name=value``."""
        return [f"{name}={value}" for name, value in vars(self).items() if value != getattr(JointAugmentation, name)]

    def transform(self, image_size: tuple[int, int], mean: Sequence[float]) -> v2.Transform:
        """Return the augmentation of a uint8 image [C, H, W] and a map [H, W]; it draws from torch's global random generator."""
        steps: list[v2.Transform] = []
        if self.scale is not None:
            steps.append(v2.ScaleJitter(image_size, self.scale))
        if self.scale is not None or self.crop is not None:
            size = self.crop or image_size
            steps += [PadToCrop(size, tuple(round(255 * value) for value in mean)), v2.RandomCrop(size)]
        if self.flip:
            steps.append(v2.RandomHorizontalFlip())
        if self.color_jitter:
            steps.append(v2.ColorJitter(*[self.color_jitter] * 3))
        return v2.Compose(steps or [v2.Identity()])
