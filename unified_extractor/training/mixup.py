"""Mixup (Zhang et al., ICLR 2018) and CutMix (Yun et al., ICCV 2019) of a training batch, by torchvision."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import v2


@dataclass(frozen=True, kw_only=True)
class Mixup:
    """A blend of pairs of training images and of their labels. If both kinds are on, one is drawn at random for each batch.

    Attributes:
        alpha: alpha of the beta distribution of mixup's weights; 0 turns mixup off.
        cutmix_alpha: alpha of the beta distribution of CutMix's box area; 0 turns CutMix off.
        probability: probability that a batch is changed at all.
    """

    alpha: float = 0.0
    cutmix_alpha: float = 0.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("alpha", self.alpha), ("cutmix_alpha", self.cutmix_alpha)):
            if value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must lie in [0, 1], got {self.probability}")

    def __call__(self, images: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Return images [B, C, H, W] and labels: [B] int64 if the batch is left as it is, else shares of the classes, [B,
        num_classes]."""
        kinds: list[v2.Transform] = []
        if self.alpha:
            kinds.append(v2.MixUp(alpha=self.alpha, num_classes=num_classes))
        if self.cutmix_alpha:
            kinds.append(v2.CutMix(alpha=self.cutmix_alpha, num_classes=num_classes))
        if not kinds or (self.probability < 1 and float(torch.rand(())) >= self.probability):
            return images, labels
        blended: tuple[Tensor, Tensor] = v2.RandomChoice(kinds)(images, labels)
        return blended
