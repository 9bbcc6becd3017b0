"""ResNet: bottlenecks around a 3x3 convolution, or around any other extractor.

Source: He et al., Deep Residual Learning for Image Recognition (CVPR 2016), with the stride in the 3x3 convolution as in torchvision.
The parameters of the variants are counted with 1000 classes; the accuracies are published ones, on ImageNet-1k at 224 x 224 pixels.
"""

from collections.abc import Sequence

from torch import Tensor, nn

import unified_extractor.presets as presets
from unified_extractor.layers.placed import placed_extractor
from unified_extractor.models.arguments import Specs, check_size, check_sizes, drop_path_rates, spec_of_stage, stage_specs
from unified_extractor.models.blocks import batch_norm, convolution_norm, stochastic_depth
from unified_extractor.models.staged import PooledHead, Stage, StagedNetwork
from unified_extractor.names import suggesting_arguments
from unified_extractor.spec import ExtractorSpec

WIDTHS = (64, 128, 256, 512)
"""Channels of the extractors of every stage."""
_EXPANSION = 4
"""Channels of a bottleneck's output, as a multiple of its extractor's."""


class Bottleneck(nn.Module):
    """A residual block, ``relu(shortcut(x) + expand(extract(reduce(x))))``: 1x1 convolution, extractor, 1x1 convolution."""

    def __init__(self, in_channels: int, width: int, stride: int, spec: ExtractorSpec, drop_path: float) -> None:
        super().__init__()
        out_channels = width * _EXPANSION
        self.reduce = convolution_norm(in_channels, width)
        self.extract = nn.Sequential(placed_extractor(width, width, spec, stride), *batch_norm(width))
        self.expand = nn.Sequential(*convolution_norm(width, out_channels, activate=False), *stochastic_depth(drop_path).values())
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else convolution_norm(in_channels, out_channels, 1, stride, activate=False)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, 4*width, ceil(H/stride), ceil(W/stride)]`` for ``[B, C, H, W]``."""
        return self.act(self.expand(self.extract(self.reduce(x))) + self.shortcut(x))


def bottleneck_stages(
    spec: Specs | None, published: ExtractorSpec, depths: Sequence[int], drop_path_rate: float
) -> tuple[list[ExtractorSpec], list[Stage]]:
    """Return the extractors and the four stages that follow a stem of 64 channels. Stages 2 to 4 begin with a block of stride 2."""
    check_sizes("depths", depths, len(WIDTHS))
    specs = stage_specs(published if spec is None else spec, len(depths))
    stages, channels = [], WIDTHS[0]
    rates = drop_path_rates(drop_path_rate, depths)
    for i, (width, one) in enumerate(zip(WIDTHS, specs, strict=True)):
        stride = 1 if i == 0 else 2
        inputs = [channels] + [width * _EXPANSION] * (depths[i] - 1)
        strides = [stride] + [1] * (depths[i] - 1)
        with spec_of_stage(i + 1, width):
            blocks = [Bottleneck(n, width, step, one, rate) for n, step, rate in zip(inputs, strides, rates[i], strict=True)]
        channels = width * _EXPANSION
        stages.append(Stage(*blocks, out_channels=channels, stride=stride))
    return specs, stages


class ResNet(StagedNetwork):
    """An image classifier: a stem with a 7x7 convolution, four stages of bottlenecks around an extractor, a linear classifier.

    Args:
        num_classes: number of outputs; 0: the pooled features.
        spec: the extractor of every bottleneck, or one for each of the four stages, such as deformable convolution in the last
            three; None: the published 3x3 convolution.
        depths: bottlenecks of the four stages.
        in_chans: channels of the image.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block, growing linearly from 0.

    Shape:
        ``[B, in_chans, H, W]`` to logits ``[B, num_classes]``; the last stage's map is 32 times smaller.

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
        depths: Sequence[int],
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        check_size("in_chans", in_chans)
        specs, stages = bottleneck_stages(spec, presets.convolution(), depths, drop_path_rate)
        super().__init__(
            in_chans=in_chans,
            num_classes=num_classes,
            specs=specs,
            stem=nn.Sequential(
                nn.Conv2d(in_chans, WIDTHS[0], 7, 2, 3, bias=False), *batch_norm(WIDTHS[0]), nn.MaxPool2d(3, 2, 1)
            ),
            stem_stride=4,
            stages=stages,
            head=PooledHead(stages[-1].out_channels, num_classes, drop_rate),
            arguments={
                "num_classes": num_classes,
                "spec": spec,
                "depths": depths,
                "in_chans": in_chans,
                "drop_rate": drop_rate,
                "drop_path_rate": drop_path_rate,
            },
        )


# One paragraph a variant.
# fmt: off
@suggesting_arguments
def resnet26(num_classes: int = 1000, spec: Specs | None = None, *, in_chans: int = 3, drop_rate: float = 0.0,
             drop_path_rate: float = 0.0) -> ResNet:
    """Return :class:`ResNet`-26: 13,696,552 parameters, published top-1 73.6 % (Li et al., CVPR 2021)."""
    return ResNet(num_classes, spec, depths=(1, 2, 4, 1), in_chans=in_chans, drop_rate=drop_rate, drop_path_rate=drop_path_rate)


@suggesting_arguments
def resnet38(num_classes: int = 1000, spec: Specs | None = None, *, in_chans: int = 3, drop_rate: float = 0.0,
             drop_path_rate: float = 0.0) -> ResNet:
    """Return :class:`ResNet`-38: 19,626,792 parameters, published top-1 76.0 % (Li et al., CVPR 2021)."""
    return ResNet(num_classes, spec, depths=(2, 3, 5, 2), in_chans=in_chans, drop_rate=drop_rate, drop_path_rate=drop_path_rate)


@suggesting_arguments
def resnet50(num_classes: int = 1000, spec: Specs | None = None, *, in_chans: int = 3, drop_rate: float = 0.0,
             drop_path_rate: float = 0.0) -> ResNet:
    """Return :class:`ResNet`-50: 25,557,032 parameters, published top-1 76.8 % (Li et al., CVPR 2021; torchvision: 76.1 %)."""
    return ResNet(num_classes, spec, depths=(3, 4, 6, 3), in_chans=in_chans, drop_rate=drop_rate, drop_path_rate=drop_path_rate)
