"""ResNet: the bottleneck that RedNet changes, with a convolution in it, or any other extractor.

Source: He et al., Deep Residual Learning for Image Recognition (CVPR 2016), with the stride in the 3x3 convolution as in torchvision.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from unified_extractor import presets
from unified_extractor.layers.placed import placed_extractor
from unified_extractor.models.arguments import Specs, check_sizes, check_stages, drop_path_rates, stage_specs, variant
from unified_extractor.models.blocks import batch_norm, convolution_norm, dropping
from unified_extractor.models.staged import PooledHead, Stage, StagedNetwork
from unified_extractor.spec import ExtractorSpec

WIDTHS = (64, 128, 256, 512)
"""Channels of the extractors of every stage."""
_EXPANSION = 4


class Bottleneck(nn.Module):
    """``relu(shortcut(x) + expand(extract(reduce(x))))``."""

    def __init__(self, in_channels: int, width: int, stride: int, spec: ExtractorSpec, drop_path: float) -> None:
        super().__init__()
        out_channels = width * _EXPANSION
        self.reduce = convolution_norm(in_channels, width)
        self.extract = nn.Sequential(placed_extractor(width, width, spec, stride), *batch_norm(width))
        self.expand = nn.Sequential(*convolution_norm(width, out_channels, activate=False), *dropping(drop_path).values())
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else convolution_norm(in_channels, out_channels, 1, stride, activate=False)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, 4*width, ceil(H/stride), ceil(W/stride)]``."""
        return self.act(self.expand(self.extract(self.reduce(x))) + self.shortcut(x))


def bottleneck_stages(
    spec: Specs | None, published: ExtractorSpec, depths: Sequence[int], drop_path_rate: float
) -> tuple[list[ExtractorSpec], list[Stage]]:
    """The extractors and the four stages behind a stem of 64 channels; the first block of all but the first stage has stride 2."""
    check_sizes("depths", depths)
    check_stages(depths=depths, widths=WIDTHS)
    specs = stage_specs(spec, published, len(depths))
    stages, channels = [], WIDTHS[0]
    rates = drop_path_rates(drop_path_rate, depths)
    for i, (width, one) in enumerate(zip(WIDTHS, specs, strict=True)):
        stride = 1 if i == 0 else 2
        inputs = [channels] + [width * _EXPANSION] * (depths[i] - 1)
        steps = [stride] + [1] * (depths[i] - 1)
        blocks = [Bottleneck(n, width, step, one, rate) for n, step, rate in zip(inputs, steps, rates[i], strict=True)]
        channels = width * _EXPANSION
        stages.append(Stage(*blocks, out_channels=channels, stride=stride))
    return specs, stages


class ResNet(StagedNetwork):
    """A staged image classifier of bottlenecks behind a 7x7 stem; the extractor in them is the argument.

    Args:
        num_classes: outputs; 0: the pooled features.
        spec: the extractor of every bottleneck, or one for each of the four stages, such as deformable convolution in the last
            three; None: the published 3x3 convolution.
        depths: bottlenecks of the four stages.
        in_chans: channels of the image.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block, growing linearly from 0.

    Shape:
        ``[B, in_chans, H, W]`` to logits ``[B, num_classes]``; the last stage's map is 32 times smaller.

    Raises:
        ValueError, TypeError: sizes that are no positive ints, an image with other than ``in_chans`` channels, or widths that a
            spec's groups do not divide.
    """

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
        check_sizes("in_chans", [in_chans])
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
            arguments=locals(),
        )


resnet26 = variant("resnet26", ResNet, depths=(1, 2, 4, 1))
resnet38 = variant("resnet38", ResNet, depths=(2, 3, 5, 2))
resnet50 = variant("resnet50", ResNet, depths=(3, 4, 6, 3))
