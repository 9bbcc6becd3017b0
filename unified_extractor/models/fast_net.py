"""FastNet: a small classifier of 32x32 images that trains in few epochs, in the manner of airbench.

Source of the design: Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU (2024). FastNet is not airbench's network, and no accuracy was
published for it: :class:`FastNet` says where they differ. The parameters of the variants are counted with 10 classes.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from typing_extensions import override

import unified_extractor.presets as presets
from unified_extractor.layers.blocks import MaxPool
from unified_extractor.models.arguments import (
    Specs,
    check_positive,
    check_size,
    check_stage_sizes,
    spec_of_stage,
    stage_specs,
)
from unified_extractor.models.blocks import extractor_in_place
from unified_extractor.models.staged import PooledHead, Stage, StagedNetwork, classifier
from unified_extractor.names import suggesting_arguments
from unified_extractor.spec import ExtractorSpec

_STEM_WIDTH = 32
"""Channels of the stem, a multiple of the 16 channels in which many extractors group theirs."""


class ScaledLinear(nn.Linear):
    """A linear layer without bias, whose outputs are multiplied by a constant."""

    def __init__(self, in_features: int, out_features: int, scale: float) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.scale = scale

    def forward(self, input: Tensor) -> Tensor:
        """Return ``[B, out_features]`` for ``[B, in_features]``."""
        return super().forward(input) * self.scale


class MaxPooledHead(PooledHead):
    """Global max pooling, dropout, then a linear classifier without bias, whose logits are multiplied by a constant."""

    pool = "max"

    def __init__(self, channels: int, num_classes: int, drop_rate: float, logit_scale: float) -> None:
        self.logit_scale = logit_scale  # before the classifier is made
        super().__init__(channels, num_classes, drop_rate)

    @override
    def reset(self, num_classes: int) -> None:
        check_size("num_classes", num_classes, 0)
        self.fc = ScaledLinear(self.channels, num_classes, self.logit_scale) if num_classes else classifier(self.channels, 0)

    @override
    def pooled(self, x: Tensor) -> Tensor:
        return x.amax((2, 3))


def _group(in_channels: int, width: int, depth: int, spec: ExtractorSpec) -> Stage:
    """Return blocks of an extractor, batch norm and GELU; the first of them max-pools the extractor's output by 2."""
    blocks = []
    for i in range(depth):
        extractor = extractor_in_place(in_channels if i == 0 else width, width, spec)
        pooling = [MaxPool()] if i == 0 else []
        blocks.append(nn.Sequential(extractor, *pooling, nn.BatchNorm2d(width), nn.GELU()))
    return Stage(*blocks, out_channels=width, stride=2)


class FastNet(StagedNetwork):
    """A classifier of small images in the manner of airbench: a 2x2 convolution, three groups of extractors, scaled logits.

    The stem keeps the image's size. Every group max-pools the output of its first extractor by 2; each extractor is followed by batch norm
    and GELU. The last map is max-pooled to one pixel, and the logits of a classifier without bias are multiplied by ``logit_scale``. A spec
    that cannot change the number of channels is followed by a 1x1 convolution where a group does.

    Differences from airbench's network: the stem's convolution has 32 channels instead of 24 and is trained from torch's initialization;
    airbench freezes a whitening of the training images. The stem pads below and to the right, and pools take what is left at the
    border, so that maps have 32, 16, 8 and 4 pixels a side instead of 31, 15, 7 and 3. Extractors have their own initialization
    instead of a partial identity. Batch norms have a learned scale and torch's momentum and epsilon. There is no residual group, as
    airbench's largest network has.

    Args:
        num_classes: number of outputs; 0: the pooled features.
        spec: the extractor in place of the 3x3 convolutions of all groups, or one for each group; None: the 3x3 convolution.
        widths: channels of every group.
        depths: extractors of every group.
        logit_scale: factor on the logits.
        in_chans: channels of the image.
        drop_rate: dropout before the classifier.

    Shape:
        ``[B, in_chans, H, W]`` to logits ``[B, num_classes]``; the last group's map is 8 times smaller.

    Raises:
        TypeError, ValueError: a wrong argument, a spec whose groups do not divide the channels of a group, or an image with other
            than ``in_chans`` channels.
    """

    usual_image_size = 32

    @suggesting_arguments
    def __init__(
        self,
        num_classes: int = 10,
        spec: Specs | None = None,
        *,
        widths: Sequence[int] = (64, 256, 256),
        depths: Sequence[int] = (2, 2, 2),
        logit_scale: float = 1 / 9,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        check_size("in_chans", in_chans)
        check_positive("logit_scale", logit_scale)
        check_stage_sizes(widths=widths, depths=depths)
        specs = stage_specs(presets.convolution() if spec is None else spec, len(depths))
        stages, channels = [], _STEM_WIDTH
        for i, (width, depth, one) in enumerate(zip(widths, depths, specs, strict=True)):
            with spec_of_stage(i + 1, width):
                stages.append(_group(channels, width, depth, one))
            channels = width
        super().__init__(
            in_chans=in_chans,
            num_classes=num_classes,
            specs=specs,
            stem=nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(in_chans, _STEM_WIDTH, 2), nn.GELU()),
            stem_stride=1,
            stages=stages,
            head=MaxPooledHead(widths[-1], num_classes, drop_rate, logit_scale),
            arguments={
                "num_classes": num_classes,
                "spec": spec,
                "widths": widths,
                "depths": depths,
                "logit_scale": logit_scale,
                "in_chans": in_chans,
                "drop_rate": drop_rate,
            },
        )


# One paragraph a variant.
# fmt: off
@suggesting_arguments
def fast_net_s(num_classes: int = 10, spec: Specs | None = None, *, logit_scale: float = 1 / 9, in_chans: int = 3,
               drop_rate: float = 0.0) -> FastNet:
    """Return :class:`FastNet` with the widths of airbench94 behind its stem: 1,977,504 parameters, no published accuracy."""
    return FastNet(num_classes, spec, widths=(64, 256, 256), depths=(2, 2, 2), logit_scale=logit_scale, in_chans=in_chans,
                   drop_rate=drop_rate)


@suggesting_arguments
def fast_net_b(num_classes: int = 10, spec: Specs | None = None, *, logit_scale: float = 1 / 9, in_chans: int = 3,
               drop_rate: float = 0.0) -> FastNet:
    """Return :class:`FastNet` with widths of 128, 384 and 384: 4,615,840 parameters, no published accuracy."""
    return FastNet(num_classes, spec, widths=(128, 384, 384), depths=(2, 2, 2), logit_scale=logit_scale, in_chans=in_chans,
                   drop_rate=drop_rate)
