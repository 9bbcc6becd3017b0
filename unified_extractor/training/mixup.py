"""Mixing the images of a batch: mixup (Zhang et al., ICLR 2018) and CutMix (Yun et al., ICCV 2019), by torchvision."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import v2


@dataclass(frozen=True, kw_only=True)
class Mixup:
    """Pairs of training images become one, with both labels. Where both kinds are on, a batch gets either, by chance.

    Attributes:
        mixup: alpha of the beta distribution from which a batch's weights come; 0: none.
        cutmix: likewise for the area of a pasted box.
        probability: that a batch is mixed at all.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("mixup", self.mixup), ("cutmix", self.cutmix)):
            if value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must lie in [0, 1], got {self.probability}")

    def __call__(self, images: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Images [B, C, H, W], and labels [B] int64 as they are or, of a mixed batch, [B, num_classes] shares."""
        kinds: list[v2.Transform] = []
        if self.mixup:
            kinds.append(v2.MixUp(alpha=self.mixup, num_classes=num_classes))
        if self.cutmix:
            kinds.append(v2.CutMix(alpha=self.cutmix, num_classes=num_classes))
        if not kinds or (self.probability < 1 and float(torch.rand(())) >= self.probability):
            return images, labels
        mixed: tuple[Tensor, Tensor] = v2.RandomChoice(kinds)(images, labels)
        return mixed
