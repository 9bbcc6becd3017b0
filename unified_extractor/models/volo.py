"""VOLO: outlook attention on a fine map, self-attention on a coarse one, class attention at the end.

Source: Yuan et al., VOLO: Vision Outlooker for Visual Recognition (2021); token labels: Jiang et al. (NeurIPS 2021). The parameters of
the variants are counted with 1000 classes, the auxiliary classifier included; the accuracies are published ones, on ImageNet-1k at
224 x 224 pixels, with token labels.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import unified_extractor.presets as presets
from unified_extractor.layers.blocks import LayerNorm2d
from unified_extractor.layers.placed import placed_extractor
from unified_extractor.models.arguments import (
    Specs,
    check_positive,
    check_rate,
    check_size,
    check_sizes,
    drop_path_rates,
    spec_of_stage,
    stage_specs,
)
from unified_extractor.models.blocks import Residual, batch_norm, init_linear, pointwise_mlp
from unified_extractor.models.staged import Stage, StagedNetwork, classifier
from unified_extractor.names import suggesting_arguments
from unified_extractor.ops.tracing import needs_more_than_gradients
from unified_extractor.spec import ExtractorSpec

_STEM_STRIDE = 8
_OUTLOOK_STRIDE = 2
"""Pixels between the windows of outlook attention. An extractor that is not a fold has a window at every pixel."""
_SMALLEST_IMAGE = 15
"""Height and width of an image that has a coarse map of one pixel."""


def _coarse_map(img_size: int | tuple[int, int]) -> tuple[int, int]:
    """Return height and width of the coarse map: half of the image's, rounded up, in patches of 4 pixels, in patches of 2.

    Raises:
        TypeError, ValueError: no int or (y, x), or an image that is too small.
    """
    image = img_size if isinstance(img_size, list | tuple) else (img_size, img_size)
    if any(isinstance(extent, bool) or not isinstance(extent, int) for extent in image):
        raise TypeError(f"img_size must be an int or (y, x), got {img_size!r}")
    check_sizes("img_size", image, minimum=_SMALLEST_IMAGE)
    if len(image) != 2:
        raise ValueError(f"img_size must be an int or (y, x), got {img_size!r}")
    height, width = ((extent + 1) // 2 // (_STEM_STRIDE // 2) // 2 for extent in image)
    return height, width


def _attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax attention; by the plain formula where fused ones lack a rule (forward mode) or run in a loop (``vmap``)."""
    with sdpa_kernel(SDPBackend.MATH) if needs_more_than_gradients() else nullcontext():
        return F.scaled_dot_product_attention(query, key, value)


class SelfAttention(nn.Module):
    """Multi-head self-attention between all pixels."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.projection = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the input's shape ``[B, C, H, W]``."""
        parts = self.qkv(x).flatten(2).unflatten(1, (3, self.heads, -1)).transpose(3, 4)
        query, key, value = (parts[:, i] for i in range(3))  # torch.fx unpacks no tensor
        y = _attention(query, key, value)
        return self.projection(y.transpose(2, 3).flatten(1, 2).unflatten(2, x.shape[2:]))


def block(channels: int, mixer: nn.Module, mlp_ratio: float, drop_path: float) -> nn.Sequential:
    """Return a pre-norm transformer block: ``x + mixer(norm(x))``, then ``x + mlp(norm(x))``."""
    return nn.Sequential(
        Residual({"norm": LayerNorm2d(channels), "mixer": mixer}, drop_path),
        Residual({"norm": LayerNorm2d(channels), "mlp": pointwise_mlp(channels, mlp_ratio)}, drop_path),
    )


class PositionEmbedding(nn.Module):
    """A learned vector for every position, added to the map; interpolated (bicubic) for maps of another size."""

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(1, channels, *size))
        nn.init.trunc_normal_(self.embedding, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the input's shape ``[B, C, H, W]``."""
        return x + resized_embedding(self.embedding, (x.shape[2], x.shape[3]))


def resized_embedding(embedding: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the embedding ``[1, C, h, w]`` interpolated to ``[1, C, *size]``."""
    if all(isinstance(extent, int) for extent in size) and embedding.shape[2:] == size:  # a traced size is not an int
        return embedding
    return F.interpolate(embedding, size, mode="bicubic", align_corners=False)


class ClassAttention(nn.Module):
    """Multi-head attention of the class token to itself and to all pixels."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels, bias=False)
        self.key_value = nn.Linear(channels, 2 * channels, bias=False)
        self.projection = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the class token ``[B, 1, C]`` for tokens ``[B, 1 + N, C]``, the class first."""
        query = self.query(tokens[:, :1]).unflatten(2, (self.heads, -1)).transpose(1, 2)
        parts = self.key_value(tokens).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        key, value = parts[0], parts[1]
        y = _attention(query, key, value)
        return self.projection(y.transpose(1, 2).flatten(2))


class ClassBlock(nn.Module):
    """A transformer block that changes the class token only: class attention, then an MLP."""

    def __init__(self, channels: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = round(channels * mlp_ratio)
        self.attention_norm = nn.LayerNorm(channels)
        self.attention = ClassAttention(channels, heads)
        self.mlp_norm = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens of the input's shape ``[B, 1 + N, C]``."""
        token = tokens[:, :1] + self.attention(self.attention_norm(tokens))
        token = token + self.mlp(self.mlp_norm(token))
        return torch.cat([token, tokens[:, 1:]], 1)


class ClassAttentionHead(nn.Module):
    """Blocks of class attention, then a classifier of the class token and an auxiliary one of every pixel."""

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
        """Replace both classifiers; 0 classes: none, the class token is the output."""
        self.fc = classifier(self.channels, num_classes)
        self.auxiliary = classifier(self.channels, num_classes)

    def tokens(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normalized class token ``[B, C]`` and pixels ``[B, h*w, C]`` of a map ``[B, C, h, w]``."""
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x.flatten(2).transpose(1, 2)], 1)
        tokens = self.norm(self.blocks(tokens))
        return tokens[:, 0], tokens[:, 1:]

    def dense(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of the class token ``[B, num_classes]`` and of every pixel ``[B, num_classes, h, w]``."""
        token, pixels = map(self.dropout, self.tokens(x))
        return self.fc(token), self.auxiliary(pixels).transpose(1, 2).unflatten(2, x.shape[2:])

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits of the class token plus, for each class, half of the largest logit of a pixel.

        With ``pre_logits``, or without classes, return the class token ``[B, C]``.
        """
        if pre_logits or isinstance(self.fc, nn.Identity):
            return self.tokens(x)[0]
        token_logits, pixel_logits = self.dense(x)
        return token_logits + 0.5 * pixel_logits.amax((2, 3))


class VOLO(StagedNetwork):
    """An image classifier: a stage of outlookers, three stages of transformer blocks on a map half as wide, class attention.

    Args:
        num_classes: number of outputs, of the auxiliary classifier too; 0: the class token.
        spec: the extractor of the first stage; None: the published outlook attention.
        depths: outlookers of the first stage, then transformer blocks of three stages.
        widths: channels of the outlookers and of the transformer blocks.
        heads: heads of the outlookers and of the transformer blocks.
        mlp_ratio: hidden channels of the MLPs, as a multiple of the width.
        stem_width: channels of the stem's convolutions.
        img_size: height and width of the images for which the position embedding has the right size, an int or (y, x). For other
            images it is interpolated.
        in_chans: channels of the image.
        drop_rate: dropout before the classifiers.
        drop_path_rate: stochastic depth of the last block, growing linearly from 0.

    Shape:
        ``[B, in_chans, H, W]`` to logits ``[B, num_classes]``; maps are 8 and 16 times smaller than the image.

    Raises:
        TypeError, ValueError: a wrong argument, a spec whose groups do not divide the channels of the first stage, an image smaller
            than 15 pixels or with other than ``in_chans`` channels.
    """

    classifiers: ClassVar = ("head.fc", "head.auxiliary")

    @suggesting_arguments
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
        map_size = _coarse_map(img_size)
        check_positive("mlp_ratio", mlp_ratio)
        check_size("in_chans", in_chans)
        check_size("stem_width", stem_width)
        for name, sizes, count in (("depths", depths, 4), ("widths", widths, 2), ("heads", heads, 2)):
            check_sizes(name, sizes, count)
        fine, coarse = widths
        for width, count in zip(widths, heads, strict=True):
            if width % count:
                raise ValueError(f"heads must divide widths, got heads={count}, widths={width}")
        specs = stage_specs(presets.outlook_attention(heads=heads[0]) if spec is None else spec, 1)
        rates = drop_path_rates(drop_path_rate, depths)
        with spec_of_stage(1, fine):
            stages = [_outlookers(fine, specs[0], mlp_ratio, rates[0])]
        for i in (1, 2, 3):
            blocks = [block(coarse, SelfAttention(coarse, heads[1]), mlp_ratio, rate) for rate in rates[i]]
            if i == 1:
                blocks.insert(0, nn.Sequential(nn.Conv2d(fine, coarse, 2, 2), PositionEmbedding(coarse, map_size)))
            stages.append(Stage(*blocks, out_channels=coarse, stride=2 if i == 1 else 1))
        super().__init__(
            in_chans=in_chans,
            num_classes=num_classes,
            specs=specs,
            stem=_stem(in_chans, stem_width, fine),
            stem_stride=_STEM_STRIDE,
            stages=stages,
            head=ClassAttentionHead(coarse, heads[1], mlp_ratio, num_classes, drop_rate),
            arguments={
                "num_classes": num_classes,
                "spec": spec,
                "depths": depths,
                "widths": widths,
                "heads": heads,
                "mlp_ratio": mlp_ratio,
                "stem_width": stem_width,
                "img_size": img_size,
                "in_chans": in_chans,
                "drop_rate": drop_rate,
                "drop_path_rate": drop_path_rate,
            },
        )
        init_linear(self)

    def _check_images(self, x: Tensor) -> None:
        super()._check_images(x)
        if min(x.shape[2:]) < _SMALLEST_IMAGE:
            raise ValueError(f"x must be at least {_SMALLEST_IMAGE} pixels high and wide, got shape {list(x.shape)}")

    def no_weight_decay(self) -> set[str]:
        """Return the names of sampling points, of the position embedding and of the class token."""
        return super().no_weight_decay() | {"stage2.0.1.embedding", "head.class_token"}

    def forward_dense(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what training with token labels needs: the logits of the class token and of every pixel of the last map.

        Args:
            x: ``[B, in_chans, H, W]``.

        Returns:
            Logits ``[B, num_classes]`` and ``[B, num_classes, h, w]``.
        """
        return self.head.dense(self.forward_features(x))


def _stem(in_chans: int, width: int, out_channels: int) -> nn.Sequential:
    """Return the stem: three convolutions at half of the image's size, then one over patches, to a map 8 times smaller."""
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


# One paragraph a variant.
# fmt: off
@suggesting_arguments
def volo_d1(num_classes: int = 1000, spec: Specs | None = None, *, mlp_ratio: float = 3.0, stem_width: int = 64,
            img_size: int | tuple[int, int] = 224, in_chans: int = 3, drop_rate: float = 0.0, drop_path_rate: float = 0.0) -> VOLO:
    """Return :class:`VOLO`-D1: 26,632,040 parameters, published top-1 84.2 % (Yuan et al. 2021)."""
    return VOLO(num_classes, spec, depths=(4, 4, 8, 2), widths=(192, 384), heads=(6, 12), mlp_ratio=mlp_ratio, stem_width=stem_width,
                img_size=img_size, in_chans=in_chans, drop_rate=drop_rate, drop_path_rate=drop_path_rate)


@suggesting_arguments
def volo_d2(num_classes: int = 1000, spec: Specs | None = None, *, mlp_ratio: float = 3.0, stem_width: int = 64,
            img_size: int | tuple[int, int] = 224, in_chans: int = 3, drop_rate: float = 0.0, drop_path_rate: float = 0.0) -> VOLO:
    """Return :class:`VOLO`-D2: 58,678,336 parameters, published top-1 85.2 % (Yuan et al. 2021)."""
    return VOLO(num_classes, spec, depths=(6, 4, 10, 4), widths=(256, 512), heads=(8, 16), mlp_ratio=mlp_ratio, stem_width=stem_width,
                img_size=img_size, in_chans=in_chans, drop_rate=drop_rate, drop_path_rate=drop_path_rate)


@suggesting_arguments
def volo_d3(num_classes: int = 1000, spec: Specs | None = None, *, mlp_ratio: float = 3.0, stem_width: int = 64,
            img_size: int | tuple[int, int] = 224, in_chans: int = 3, drop_rate: float = 0.0, drop_path_rate: float = 0.0) -> VOLO:
    """Return :class:`VOLO`-D3: 86,325,072 parameters, published top-1 85.4 % (Yuan et al. 2021)."""
    return VOLO(num_classes, spec, depths=(8, 8, 16, 4), widths=(256, 512), heads=(8, 16), mlp_ratio=mlp_ratio, stem_width=stem_width,
                img_size=img_size, in_chans=in_chans, drop_rate=drop_rate, drop_path_rate=drop_path_rate)


@suggesting_arguments
def volo_d4(num_classes: int = 1000, spec: Specs | None = None, *, mlp_ratio: float = 3.0, stem_width: int = 64,
            img_size: int | tuple[int, int] = 224, in_chans: int = 3, drop_rate: float = 0.0, drop_path_rate: float = 0.0) -> VOLO:
    """Return :class:`VOLO`-D4: 192,961,520 parameters, published top-1 85.7 % (Yuan et al. 2021)."""
    return VOLO(num_classes, spec, depths=(8, 8, 16, 4), widths=(384, 768), heads=(12, 16), mlp_ratio=mlp_ratio, stem_width=stem_width,
                img_size=img_size, in_chans=in_chans, drop_rate=drop_rate, drop_path_rate=drop_path_rate)


@suggesting_arguments
def volo_d5(num_classes: int = 1000, spec: Specs | None = None, *, img_size: int | tuple[int, int] = 224, in_chans: int = 3,
            drop_rate: float = 0.0, drop_path_rate: float = 0.0) -> VOLO:
    """Return :class:`VOLO`-D5: 295,455,584 parameters, published top-1 86.1 % (Yuan et al. 2021)."""
    return VOLO(num_classes, spec, depths=(12, 12, 20, 4), widths=(384, 768), heads=(12, 16), mlp_ratio=4.0, stem_width=128,
                img_size=img_size, in_chans=in_chans, drop_rate=drop_rate, drop_path_rate=drop_path_rate)
