"""VOLO: outlook attention at a fine map, self-attention at a coarse one, class attention at the end.

Source: Yuan et al., VOLO: Vision Outlooker for Visual Recognition (2021); token labels: Jiang et al. (NeurIPS 2021).
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unified_extractor import presets
from unified_extractor.layers.blocks import LayerNorm2d
from unified_extractor.layers.placed import placed_extractor
from unified_extractor.models.arguments import (
    Specs,
    check_positive,
    check_rate,
    check_sizes,
    drop_path_rates,
    stage_specs,
    variant,
)
from unified_extractor.models.blocks import Residual, batch_norm, init_linear, pointwise_mlp
from unified_extractor.models.staged import Stage, StagedNetwork, classifier
from unified_extractor.spec import ExtractorSpec

_STEM_STRIDE = 8
_OUTLOOK_STRIDE = 2
"""Pixels between the windows of outlook attention; an extractor that is no fold has a window at every pixel."""


_LEAST = 15
"""Pixels of an image that has one coarse pixel."""


def _coarse(extent: int) -> int:
    """Pixels of the last map along an axis: half rounded up, then patches of 4, then of 2."""
    return (extent + 1) // 2 // (_STEM_STRIDE // 2) // 2


class SelfAttention(nn.Module):
    """Every pixel attends to every pixel."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.projection = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same."""
        query, key, value = self.qkv(x).flatten(2).unflatten(1, (3, self.heads, -1)).transpose(3, 4).unbind(1)
        y = F.scaled_dot_product_attention(query, key, value)
        return self.projection(y.transpose(2, 3).flatten(1, 2).unflatten(2, x.shape[2:]))


def block(channels: int, mixer: nn.Module, mlp_ratio: float, drop_path: float) -> nn.Sequential:
    """``x + mixer(norm(x))``, then ``x + mlp(norm(x))``."""
    return nn.Sequential(
        Residual({"norm": LayerNorm2d(channels), "mixer": mixer}, drop_path),
        Residual({"norm": LayerNorm2d(channels), "mlp": pointwise_mlp(channels, mlp_ratio)}, drop_path),
    )


class PositionEmbedding(nn.Module):
    """A learned vector a position, added; interpolated (bicubic) to maps of other sizes."""

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(1, channels, *size))
        nn.init.trunc_normal_(self.embedding, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same."""
        return x + resized_embedding(self.embedding, (x.shape[2], x.shape[3]))


def resized_embedding(embedding: Tensor, size: tuple[int, int]) -> Tensor:
    """``[1, C, h, w]`` to ``[1, C, *size]``."""
    if all(isinstance(extent, int) for extent in size) and embedding.shape[2:] == size:  # not where a traced size is any
        return embedding
    return F.interpolate(embedding, size, mode="bicubic", align_corners=False)


class ClassAttention(nn.Module):
    """The class token attends to itself and to every pixel."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels, bias=False)
        self.key_value = nn.Linear(channels, 2 * channels, bias=False)
        self.projection = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, 1 + N, C]``, the class first, to ``[B, 1, C]``."""
        query = self.query(tokens[:, :1]).unflatten(2, (self.heads, -1)).transpose(1, 2)
        key, value = self.key_value(tokens).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(query, key, value)
        return self.projection(y.transpose(1, 2).flatten(2))


class ClassBlock(nn.Module):
    """Attention and an MLP for the class token alone; the pixels stay."""

    def __init__(self, channels: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = round(channels * mlp_ratio)
        self.attention_norm = nn.LayerNorm(channels)
        self.attention = ClassAttention(channels, heads)
        self.mlp_norm = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, 1 + N, C]`` to the same."""
        token = tokens[:, :1] + self.attention(self.attention_norm(tokens))
        token = token + self.mlp(self.mlp_norm(token))
        return torch.cat([token, tokens[:, 1:]], 1)


class ClassAttentionHead(nn.Module):
    """Class attention, then a classifier of the class token and an auxiliary one of every pixel."""

    pool = "token"

    def __init__(self, channels: int, heads: int, mlp_ratio: float, num_classes: int, drop_rate: float, depth: int = 2) -> None:
        super().__init__()
        check_rate("drop_rate", drop_rate)
        self.channels = channels
        self.dropout = nn.Dropout(drop_rate)
        self.class_token = nn.Parameter(torch.empty(1, 1, channels))
        nn.init.trunc_normal_(self.class_token, std=0.02)
        self.blocks = nn.Sequential(*(ClassBlock(channels, heads, mlp_ratio) for _ in range(depth)))
        self.norm = nn.LayerNorm(channels)
        self.reset(num_classes)

    def reset(self, num_classes: int) -> None:
        """New classifiers; 0 classes: none, the class token is the output."""
        self.fc = classifier(self.channels, num_classes)
        self.auxiliary = classifier(self.channels, num_classes)

    def tokens(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, C, h, w]`` to the class token ``[B, C]`` and the pixels ``[B, h*w, C]``, normalized."""
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x.flatten(2).transpose(1, 2)], 1)
        tokens = self.norm(self.blocks(tokens))
        return tokens[:, 0], tokens[:, 1:]

    def dense(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, C, h, w]`` to the logits of the class token ``[B, num_classes]`` and of every pixel ``[B, num_classes, h, w]``."""
        token, pixels = map(self.dropout, self.tokens(x))
        return self.fc(token), self.auxiliary(pixels).transpose(1, 2).unflatten(2, x.shape[2:])

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """``[B, C, h, w]`` to logits: those of the class token plus half of each class's largest among the pixels."""
        if pre_logits or isinstance(self.fc, nn.Identity):
            return self.tokens(x)[0]  # nothing asks the pixels for classes
        of_token, of_pixels = self.dense(x)
        return of_token + 0.5 * of_pixels.amax((2, 3))


class VOLO(StagedNetwork):
    """A stage of outlookers, then three of transformers on a map half as wide, then class attention.

    Args:
        num_classes: outputs of the classifier and of the auxiliary one; 0: the class token.
        spec: the extractor in the outlookers' place; None: the published outlook attention.
        depths: outlookers, then transformer blocks of three stages.
        widths: channels of the outlookers and of the transformers.
        heads: of the outlookers and of the transformers.
        mlp_ratio: hidden channels of the MLPs, as a multiple of the width.
        stem_width: channels of the stem's convolutions.
        img_size: height and width of the images, an int or (y, x), for which the position embedding is made; other images are
            taken too, then it is interpolated.
        in_chans: channels of the image.
        drop_rate: dropout before the classifiers.
        drop_path_rate: stochastic depth of the last block, growing linearly from 0.

    Shape:
        ``[B, in_chans, H, W]`` to logits ``[B, num_classes]``; maps are 8 and 16 times smaller than the image.

    Raises:
        ValueError, TypeError: sizes that are no positive ints, an image smaller than 15 pixels or with other than ``in_chans``
            channels, or a width that the heads or the spec's groups do not divide.
    """

    classifiers: ClassVar = ("head.fc", "head.auxiliary")

    def __init__(
        self,
        num_classes: int = 1000,
        spec: Specs | None = None,
        *,
        depths: Sequence[int],
        widths: Sequence[int],
        heads: Sequence[int],
        mlp_ratio: float = 3.0,
        stem_width: int = 64,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        image = img_size if isinstance(img_size, list | tuple) else (img_size, img_size)
        check_sizes("img_size", image, _LEAST)
        if len(image) != 2:
            raise ValueError(f"img_size must be an int or (y, x), got {img_size!r}")
        check_positive("mlp_ratio", mlp_ratio)
        check_sizes("in_chans", [in_chans])
        check_sizes("stem_width", [stem_width])
        for name, sizes, count in (("depths", depths, 4), ("widths", widths, 2), ("heads", heads, 2)):
            check_sizes(name, sizes)
            if len(sizes) != count:
                raise ValueError(f"{name} must be {count} ints, got {sizes!r}")
        fine, coarse = widths
        for width, count in zip(widths, heads, strict=True):
            if width % count:
                raise ValueError(f"heads must divide widths, got heads={count}, widths={width}")
        (outlook,) = specs = stage_specs(spec, presets.outlook_attention(heads=heads[0]), 1)
        rates = drop_path_rates(drop_path_rate, depths)
        stages = [_outlookers(fine, outlook, mlp_ratio, rates[0])]
        for i in (1, 2, 3):
            blocks = [block(coarse, SelfAttention(coarse, heads[1]), mlp_ratio, rate) for rate in rates[i]]
            if i == 1:
                size = (_coarse(image[0]), _coarse(image[1]))
                entry = nn.Sequential(nn.Conv2d(fine, coarse, 2, 2), PositionEmbedding(coarse, size))
                blocks.insert(0, entry)
            stages.append(Stage(*blocks, out_channels=coarse, stride=2 if i == 1 else 1))
        super().__init__(
            in_chans=in_chans,
            num_classes=num_classes,
            specs=specs,
            stem=_stem(in_chans, stem_width, fine),
            stem_stride=_STEM_STRIDE,
            stages=stages,
            head=ClassAttentionHead(coarse, heads[1], mlp_ratio, num_classes, drop_rate),
            arguments=locals(),
        )
        init_linear(self)

    def _checked(self, x: Tensor) -> Tensor:
        x = super()._checked(x)
        if min(x.shape[2:]) < _LEAST:
            raise ValueError(f"x must be at least {_LEAST} pixels high and wide, got shape {list(x.shape)}")
        return x

    def no_weight_decay(self) -> set[str]:
        """Position embedding and class token."""
        return {"stage2.0.1.embedding", "head.class_token"}

    def forward_dense(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What training with token labels needs: logits of the class token and of every pixel of the last map.

        ``[B, in_chans, H, W]`` to ``[B, num_classes]`` and ``[B, num_classes, h, w]``.
        """
        return self.head.dense(self.forward_features(x))


def _stem(in_chans: int, width: int, out_channels: int) -> nn.Sequential:
    """Three convolutions at half the image's size, then one that makes patches: 8 times smaller."""
    return nn.Sequential(
        nn.Conv2d(in_chans, width, 7, 2, 3, bias=False),
        *batch_norm(width),
        nn.Conv2d(width, width, 3, 1, 1, bias=False),
        *batch_norm(width),
        nn.Conv2d(width, width, 3, 1, 1, bias=False),
        *batch_norm(width),
        nn.Conv2d(width, out_channels, _STEM_STRIDE // 2, _STEM_STRIDE // 2),
    )


def _outlookers(channels: int, spec: ExtractorSpec, mlp_ratio: float, rates: Sequence[float]) -> Stage:
    blocks = []
    for rate in rates:
        mixer = placed_extractor(channels, channels, spec, _OUTLOOK_STRIDE, shrink=False)
        blocks.append(block(channels, mixer, mlp_ratio, rate))
    return Stage(*blocks, out_channels=channels, stride=1)


volo_d1 = variant("volo_d1", VOLO, depths=(4, 4, 8, 2), widths=(192, 384), heads=(6, 12))
volo_d2 = variant("volo_d2", VOLO, depths=(6, 4, 10, 4), widths=(256, 512), heads=(8, 16))
volo_d3 = variant("volo_d3", VOLO, depths=(8, 8, 16, 4), widths=(256, 512), heads=(8, 16))
volo_d4 = variant("volo_d4", VOLO, depths=(8, 8, 16, 4), widths=(384, 768), heads=(12, 16))
volo_d5 = variant("volo_d5", VOLO, depths=(12, 12, 20, 4), widths=(384, 768), heads=(12, 16), mlp_ratio=4.0, stem_width=128)
