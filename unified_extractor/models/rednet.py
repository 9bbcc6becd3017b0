"""RedNet: ResNet's bottleneck with involution in place of its 3x3 convolution, or with any other extractor.

Source: Li et al., Involution: Inverting the Inherence of Convolution for Visual Recognition (CVPR 2021).
"""

from collections.abc import Sequence

from torch import nn

from unified_extractor import presets
from unified_extractor.layers.placed import placed_extractor
from unified_extractor.models.arguments import Specs, check_sizes, variant
from unified_extractor.models.blocks import batch_norm, convolution_norm
from unified_extractor.models.resnet import WIDTHS, bottleneck_stages
from unified_extractor.models.staged import PooledHead, StagedNetwork


class RedNet(StagedNetwork):
    """A staged image classifier of bottlenecks behind a stem with an involution; the extractor in them is the argument.

    Args:
        num_classes: outputs; 0: the pooled features.
        spec: the extractor of every bottleneck, or one for each of the four stages; None: the published one, involution of 7x7
            taps and 16 channels a kernel. The stem's involution stays: :class:`ResNet` has a stem without one.
        depths: bottlenecks of the four stages.
        stem_kernel_size: taps of the stem's involution: 3 in the released code, 7 gives the paper's table.
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
        stem_kernel_size: int = 3,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        check_sizes("in_chans", [in_chans])
        check_sizes("stem_kernel_size", [stem_kernel_size])
        specs, stages = bottleneck_stages(spec, presets.involution(kernel_size=7), depths, drop_path_rate)
        half = WIDTHS[0] // 2
        super().__init__(
            in_chans=in_chans,
            num_classes=num_classes,
            specs=specs,
            stem=nn.Sequential(
                convolution_norm(in_chans, half, 3, 2),
                placed_extractor(half, half, presets.involution(kernel_size=stem_kernel_size)),
                *batch_norm(half),
                convolution_norm(half, WIDTHS[0], 3),
                nn.MaxPool2d(3, 2, 1),
            ),
            stem_stride=4,
            stages=stages,
            head=PooledHead(stages[-1].out_channels, num_classes, drop_rate),
            arguments=locals(),
        )


rednet26 = variant("rednet26", RedNet, depths=(1, 2, 4, 1))
rednet38 = variant("rednet38", RedNet, depths=(2, 3, 5, 2))
rednet50 = variant("rednet50", RedNet, depths=(3, 4, 6, 3))
rednet101 = variant("rednet101", RedNet, depths=(3, 4, 23, 3))
rednet152 = variant("rednet152", RedNet, depths=(3, 8, 36, 3))
