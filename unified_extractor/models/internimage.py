"""InternImage: transformer-like blocks with deformable convolution v3 as mixer; FlashInternImage: the same with v4.

Sources: Wang et al., InternImage (CVPR 2023); Xiong et al., Efficient Deformable ConvNets (CVPR 2024).
"""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from unified_extractor import presets
from unified_extractor.layers.blocks import LayerNorm2d
from unified_extractor.layers.placed import placed_extractor
from unified_extractor.models.arguments import (
    Specs,
    check_positive,
    check_sizes,
    check_stages,
    drop_path_rates,
    stage_specs,
    variant,
)
from unified_extractor.models.blocks import LayerScale, Residual, init_linear, pointwise_mlp
from unified_extractor.models.staged import PooledHead, Stage, StagedNetwork
from unified_extractor.spec import ExtractorSpec, Generator, Pair, Projection

_EPS = 1e-6
_MLP_RATIO = 4.0
_HEAD_RATIO = 1.5
"""Channels of the head's convolution, as a multiple of the last stage's."""


class ConvolutionHead(PooledHead):
    """A 1x1 convolution to more channels, then global average and a linear classifier."""

    def __init__(self, in_channels: int, channels: int, num_classes: int, drop_rate: float) -> None:
        super().__init__(channels, num_classes, drop_rate)
        self.mix = nn.Sequential(nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.GELU())

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """``[B, C, h, w]`` to logits ``[B, num_classes]``, or to what the classifier reads."""
        return super().forward(self.mix(x), pre_logits)


class InternImage(StagedNetwork):
    """Four stages of blocks of an extractor and an MLP, 3x3 convolutions of stride 2 between them.

    Args:
        num_classes: outputs; 0: the pooled features.
        spec: the extractor of every block, or one for each stage; None: the ``published`` ones.
        published: what ``spec=None`` stands for, one a stage; None: InternImage's own, DCNv3 with a group for 16 channels.
        width: channels of the first stage; every further one has twice as many.
        depths: blocks of every stage.
        post_norm: normalize what a branch gives instead of what it takes.
        layer_scale: initial value of a learned factor on every branch; None: no factor.
        mlp_bias: whether the MLP's second layer has a bias.
        in_chans: channels of the image.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block, growing linearly from 0.

    Shape:
        ``[B, in_chans, H, W]`` to logits ``[B, num_classes]``; the first stage's map is 4 times smaller, each further one half of it.

    Raises:
        ValueError, TypeError: sizes that are no positive ints, an image with other than ``in_chans`` channels, or widths that a
            spec's groups do not divide.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        spec: Specs | None = None,
        *,
        published: Specs | None = None,
        width: int,
        depths: Sequence[int],
        post_norm: bool = False,
        layer_scale: float | None = None,
        mlp_bias: bool = True,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        check_sizes("in_chans", [in_chans])
        check_sizes("width", [width], 2)
        check_sizes("depths", depths)
        check_stages(depths=depths)
        if layer_scale is not None:
            check_positive("layer_scale", layer_scale)
        own = [presets.deformable_convolution(3, groups=max(1, width * 2**i // 16)) for i in range(len(depths))]
        specs = stage_specs(spec, stage_specs(published, own, len(depths)), len(depths))
        rates = drop_path_rates(drop_path_rate, depths)
        stages = []
        for i, one in enumerate(specs):
            channels = width * 2**i
            blocks = [_block(channels, one, rate, post_norm, layer_scale, mlp_bias) for rate in rates[i]]
            before = [] if i == 0 else [_downsampling(channels // 2, channels)]
            after = [] if post_norm else [LayerNorm2d(channels, eps=_EPS)]
            stages.append(Stage(*before, *blocks, *after, out_channels=channels, stride=1 if i == 0 else 2))
        last = stages[-1].out_channels
        super().__init__(
            in_chans=in_chans,
            num_classes=num_classes,
            specs=specs,
            stem=_stem(in_chans, width),
            stem_stride=4,
            stages=stages,
            head=ConvolutionHead(last, int(last * _HEAD_RATIO), num_classes, drop_rate),
            arguments=locals(),
        )
        init_linear(self)


def _stem(in_chans: int, width: int) -> nn.Sequential:
    half = width // 2
    return nn.Sequential(
        nn.Conv2d(in_chans, half, 3, 2, 1),
        LayerNorm2d(half, eps=_EPS),
        nn.GELU(),
        nn.Conv2d(half, width, 3, 2, 1),
        LayerNorm2d(width, eps=_EPS),
    )


def _downsampling(in_channels: int, out_channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, 3, 2, 1, bias=False)
    return nn.Sequential(convolution, LayerNorm2d(out_channels, eps=_EPS))


def _block(
    channels: int, spec: ExtractorSpec, drop_path: float, post_norm: bool, layer_scale: float | None, mlp_bias: bool
) -> nn.Sequential:
    """``x + scale * mixer(norm(x))``, or with post norm ``x + scale * norm(mixer(x))``; then the same with an MLP."""
    mlp = pointwise_mlp(channels, _MLP_RATIO, output_bias=mlp_bias)
    branches = []
    for name, mixer in (("mixer", placed_extractor(channels, channels, spec)), ("mlp", mlp)):
        norm = {"norm": LayerNorm2d(channels, eps=_EPS)}
        scale = {} if layer_scale is None else {"scale": LayerScale(channels, layer_scale)}
        branch = {name: mixer} | norm if post_norm else norm | {name: mixer}
        branches.append(Residual(branch | scale, drop_path))
    return nn.Sequential(*branches)


def _dcnv4(*groups: int, view: Pair = 1, offset_scale: float = 1.0) -> list[ExtractorSpec]:
    """As in FlashInternImage: no output bias, heads of a multiple of 8 values, in larger models a 3x3 view."""
    specs = (presets.deformable_convolution(4, groups=count, offset_scale=offset_scale) for count in groups)
    changes = {"projection": Projection(input="affine", output="linear"), "generator": Generator(view=view, head_multiple=8)}
    return [replace(spec, **changes) for spec in specs]  # type: ignore[arg-type]


_T = {"width": 64, "depths": (4, 4, 18, 4)}
_S = {"width": 80, "depths": (4, 4, 21, 4), "post_norm": True, "layer_scale": 1e-5}
_B = {"width": 112, "depths": (4, 4, 21, 4), "post_norm": True, "layer_scale": 1e-5}

internimage_t = variant("internimage_t", InternImage, **_T)
internimage_s = variant("internimage_s", InternImage, **_S)
internimage_b = variant("internimage_b", InternImage, **_B)

flash_internimage_t = variant("flash_internimage_t", InternImage, **_T, mlp_bias=False, published=_dcnv4(4, 8, 16, 32))
flash_internimage_s = variant("flash_internimage_s", InternImage, **_S, mlp_bias=False, published=_dcnv4(5, 10, 20, 40, view=3))
flash_internimage_b = variant(
    "flash_internimage_b", InternImage, **_B, mlp_bias=False, published=_dcnv4(7, 14, 28, 56, view=3, offset_scale=0.5)
)
