"""InternImage: transformer-like blocks with deformable convolution v3 in attention's place; FlashInternImage: with v4.

Sources: Wang et al., InternImage (CVPR 2023); Xiong et al., Efficient Deformable ConvNets (CVPR 2024). The parameters of the variants are
counted with 1000 classes; the accuracies are published ones, on ImageNet-1k at 224 x 224 pixels.
"""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

import unified_extractor.presets as presets
from unified_extractor.layers.blocks import LayerNorm2d
from unified_extractor.layers.placed import placed_extractor
from unified_extractor.models.arguments import (
    Specs,
    check_positive,
    check_size,
    check_stage_sizes,
    drop_path_rates,
    spec_of_stage,
    stage_specs,
)
from unified_extractor.models.blocks import LayerScale, Residual, init_linear, pointwise_mlp
from unified_extractor.models.staged import PooledHead, Stage, StagedNetwork
from unified_extractor.names import suggesting_arguments
from unified_extractor.spec import ExtractorSpec, Generator, Pair, Projection

_EPS = 1e-6
_MLP_RATIO = 4.0
"""Hidden channels of the MLPs, as a multiple of the stage's channels."""
_HEAD_RATIO = 1.5
"""Channels of the head's convolution, as a multiple of the last stage's."""


class ConvolutionHead(PooledHead):
    """A 1x1 convolution to more channels, then global average and a linear classifier."""

    def __init__(self, in_channels: int, channels: int, num_classes: int, drop_rate: float) -> None:
        super().__init__(channels, num_classes, drop_rate)
        self.mix = nn.Sequential(nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.GELU())

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits ``[B, num_classes]`` of a map ``[B, C, h, w]``, or with ``pre_logits`` the classifier's input."""
        return super().forward(self.mix(x), pre_logits)


class InternImage(StagedNetwork):
    """An image classifier: stages of blocks of an extractor and an MLP, 3x3 convolutions of stride 2 between the stages.

    Args:
        num_classes: number of outputs; 0: the pooled features.
        spec: the extractor of every block, or one for each stage; None: the ``published`` ones.
        published: the extractors that ``spec=None`` stands for; None: InternImage's own, DCNv3 with a group for 16 channels.
        width: channels of the first stage; every further one has twice as many.
        depths: blocks of every stage.
        post_norm: normalize the output of a branch instead of its input.
        layer_scale: initial value of the learned factors of every branch; None: no factors.
        mlp_bias: whether the MLP's second layer has a bias.
        in_chans: channels of the image.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block, growing linearly from 0.

    Shape:
        ``[B, in_chans, H, W]`` to logits ``[B, num_classes]``; the first stage's map is 4 times smaller, each further one half of it.

    Raises:
        TypeError, ValueError: a wrong argument, a spec whose groups do not divide the channels of a stage, or an image with other
            than ``in_chans`` channels.
    """

    @suggesting_arguments
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
        check_size("in_chans", in_chans)
        check_size("width", width, 2)
        check_stage_sizes(depths=depths)
        if layer_scale is not None:
            check_positive("layer_scale", layer_scale)
        dcnv3 = [presets.deformable_convolution(3, groups=max(1, width * 2**i // 16)) for i in range(len(depths))]
        own = stage_specs(dcnv3 if published is None else published, len(depths), "published")
        specs = stage_specs(own if spec is None else spec, len(depths))
        rates = drop_path_rates(drop_path_rate, depths)
        stages = []
        for i, one in enumerate(specs):
            channels = width * 2**i
            with spec_of_stage(i + 1, channels):
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
            arguments={
                "num_classes": num_classes,
                "spec": spec,
                "published": published,
                "width": width,
                "depths": depths,
                "post_norm": post_norm,
                "layer_scale": layer_scale,
                "mlp_bias": mlp_bias,
                "in_chans": in_chans,
                "drop_rate": drop_rate,
                "drop_path_rate": drop_path_rate,
            },
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
    """Return ``x + scale * mixer(norm(x))`` and the same with an MLP; with post norm ``x + scale * norm(mixer(x))``."""
    mlp = pointwise_mlp(channels, _MLP_RATIO, output_bias=mlp_bias)
    branches = []
    for name, mixer in (("mixer", placed_extractor(channels, channels, spec)), ("mlp", mlp)):
        norm = {"norm": LayerNorm2d(channels, eps=_EPS)}
        scale = {} if layer_scale is None else {"scale": LayerScale(channels, layer_scale)}
        branch = {name: mixer} | norm if post_norm else norm | {name: mixer}
        branches.append(Residual(branch | scale, drop_path))
    return nn.Sequential(*branches)


def _dcnv4(*groups: int, view: Pair = 1, offset_scale: float = 1.0) -> list[ExtractorSpec]:
    """Return DCNv4 for every stage as in FlashInternImage: no output bias, heads padded to 8 values, in larger models a 3x3 view."""
    specs = (presets.deformable_convolution(4, groups=count, offset_scale=offset_scale) for count in groups)
    changes = {"projection": Projection(input="affine", output="linear"), "generator": Generator(view=view, head_multiple=8)}
    return [replace(spec, **changes) for spec in specs]  # type: ignore[arg-type]


# One paragraph a variant.
# fmt: off
@suggesting_arguments
def internimage_t(num_classes: int = 1000, spec: Specs | None = None, *, published: Specs | None = None, post_norm: bool = False,
                  layer_scale: float | None = None, mlp_bias: bool = True, in_chans: int = 3, drop_rate: float = 0.0,
                  drop_path_rate: float = 0.0) -> InternImage:
    """Return :class:`InternImage`-T: 29,918,424 parameters, published top-1 83.5 % (Wang et al., CVPR 2023)."""
    return InternImage(num_classes, spec, published=published, width=64, depths=(4, 4, 18, 4), post_norm=post_norm,
                       layer_scale=layer_scale, mlp_bias=mlp_bias, in_chans=in_chans, drop_rate=drop_rate,
                       drop_path_rate=drop_path_rate)


@suggesting_arguments
def internimage_s(num_classes: int = 1000, spec: Specs | None = None, *, published: Specs | None = None, mlp_bias: bool = True,
                  in_chans: int = 3, drop_rate: float = 0.0, drop_path_rate: float = 0.0) -> InternImage:
    """Return :class:`InternImage`-S: 50,079,880 parameters, published top-1 84.2 % (Wang et al., CVPR 2023)."""
    return InternImage(num_classes, spec, published=published, width=80, depths=(4, 4, 21, 4), post_norm=True, layer_scale=1e-5,
                       mlp_bias=mlp_bias, in_chans=in_chans, drop_rate=drop_rate, drop_path_rate=drop_path_rate)


@suggesting_arguments
def internimage_b(num_classes: int = 1000, spec: Specs | None = None, *, published: Specs | None = None, mlp_bias: bool = True,
                  in_chans: int = 3, drop_rate: float = 0.0, drop_path_rate: float = 0.0) -> InternImage:
    """Return :class:`InternImage`-B: 97,461,832 parameters, published top-1 84.9 % (Wang et al., CVPR 2023)."""
    return InternImage(num_classes, spec, published=published, width=112, depths=(4, 4, 21, 4), post_norm=True, layer_scale=1e-5,
                       mlp_bias=mlp_bias, in_chans=in_chans, drop_rate=drop_rate, drop_path_rate=drop_path_rate)


@suggesting_arguments
def flash_internimage_t(num_classes: int = 1000, spec: Specs | None = None, *, post_norm: bool = False,
                        layer_scale: float | None = None, in_chans: int = 3, drop_rate: float = 0.0,
                        drop_path_rate: float = 0.0) -> InternImage:
    """Return FlashInternImage-T, an :class:`InternImage`: 29,815,528 parameters, published top-1 83.6 % (Xiong et al., CVPR 2024)."""
    return InternImage(num_classes, spec, published=_dcnv4(4, 8, 16, 32), width=64, depths=(4, 4, 18, 4), post_norm=post_norm,
                       layer_scale=layer_scale, mlp_bias=False, in_chans=in_chans, drop_rate=drop_rate,
                       drop_path_rate=drop_path_rate)


@suggesting_arguments
def flash_internimage_s(num_classes: int = 1000, spec: Specs | None = None, *, in_chans: int = 3, drop_rate: float = 0.0,
                        drop_path_rate: float = 0.0) -> InternImage:
    """Return FlashInternImage-S, an :class:`InternImage`: 50,067,496 parameters, published top-1 84.4 % (Xiong et al., CVPR 2024)."""
    return InternImage(num_classes, spec, published=_dcnv4(5, 10, 20, 40, view=3), width=80, depths=(4, 4, 21, 4), post_norm=True,
                       layer_scale=1e-5, mlp_bias=False, in_chans=in_chans, drop_rate=drop_rate, drop_path_rate=drop_path_rate)


@suggesting_arguments
def flash_internimage_b(num_classes: int = 1000, spec: Specs | None = None, *, in_chans: int = 3, drop_rate: float = 0.0,
                        drop_path_rate: float = 0.0) -> InternImage:
    """Return FlashInternImage-B, an :class:`InternImage`: 97,448,960 parameters, published top-1 84.9 % (Xiong et al., CVPR 2024)."""
    return InternImage(num_classes, spec, published=_dcnv4(7, 14, 28, 56, view=3, offset_scale=0.5), width=112, depths=(4, 4, 21, 4),
                       post_norm=True, layer_scale=1e-5, mlp_bias=False, in_chans=in_chans, drop_rate=drop_rate,
                       drop_path_rate=drop_path_rate)
