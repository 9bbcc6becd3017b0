"""RedNet: ResNet's bottleneck with involution in place of its 3x3 convolution, or with any other extractor.

Source: Li et al., Involution: Inverting the Inherence of Convolution for Visual Recognition (CVPR 2021). The parameters of the
variants are counted with 1000 classes and ``stem_kernel_size=3``, as in the released code (7, as in the paper's table, adds 720); the
accuracies are published ones, on ImageNet-1k at 224 x 224 pixels.
"""

from collections.abc import Sequence

from torch import nn

import unified_extractor.presets as presets
from unified_extractor.layers.placed import placed_extractor
from unified_extractor.models.arguments import Specs, check_size
from unified_extractor.models.blocks import batch_norm, convolution_norm
from unified_extractor.models.resnet import WIDTHS, bottleneck_stages
from unified_extractor.models.staged import PooledHead, StagedNetwork
from unified_extractor.names import suggesting_arguments


class RedNet(StagedNetwork):
    """An image classifier: a stem with an involution, four stages of bottlenecks around an extractor, a linear classifier.

    Args:
        num_classes: number of outputs; 0: the pooled features.
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
        stem_kernel_size: int = 3,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        check_size("in_chans", in_chans)
        check_size("stem_kernel_size", stem_kernel_size)
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
            arguments={
                "num_classes": num_classes,
                "spec": spec,
                "depths": depths,
                "stem_kernel_size": stem_kernel_size,
                "in_chans": in_chans,
                "drop_rate": drop_rate,
                "drop_path_rate": drop_path_rate,
            },
        )


# One paragraph a variant.
# fmt: off
@suggesting_arguments
def rednet26(num_classes: int = 1000, spec: Specs | None = None, *, stem_kernel_size: int = 3, in_chans: int = 3,
             drop_rate: float = 0.0, drop_path_rate: float = 0.0) -> RedNet:
    """Return :class:`RedNet`-26: 9,233,166 parameters, published top-1 75.9 % (Li et al., CVPR 2021)."""
    return RedNet(num_classes, spec, depths=(1, 2, 4, 1), stem_kernel_size=stem_kernel_size, in_chans=in_chans,
                  drop_rate=drop_rate, drop_path_rate=drop_path_rate)


@suggesting_arguments
def rednet38(num_classes: int = 1000, spec: Specs | None = None, *, stem_kernel_size: int = 3, in_chans: int = 3,
             drop_rate: float = 0.0, drop_path_rate: float = 0.0) -> RedNet:
    """Return :class:`RedNet`-38: 12,386,986 parameters, published top-1 77.6 % (Li et al., CVPR 2021)."""
    return RedNet(num_classes, spec, depths=(2, 3, 5, 2), stem_kernel_size=stem_kernel_size, in_chans=in_chans,
                  drop_rate=drop_rate, drop_path_rate=drop_path_rate)


@suggesting_arguments
def rednet50(num_classes: int = 1000, spec: Specs | None = None, *, stem_kernel_size: int = 3, in_chans: int = 3,
             drop_rate: float = 0.0, drop_path_rate: float = 0.0) -> RedNet:
    """Return :class:`RedNet`-50: 15,540,806 parameters, published top-1 78.4 % (Li et al., CVPR 2021)."""
    return RedNet(num_classes, spec, depths=(3, 4, 6, 3), stem_kernel_size=stem_kernel_size, in_chans=in_chans,
                  drop_rate=drop_rate, drop_path_rate=drop_path_rate)


@suggesting_arguments
def rednet101(num_classes: int = 1000, spec: Specs | None = None, *, stem_kernel_size: int = 3, in_chans: int = 3,
              drop_rate: float = 0.0, drop_path_rate: float = 0.0) -> RedNet:
    """Return :class:`RedNet`-101: 25,652,950 parameters, published top-1 79.1 % (Li et al., CVPR 2021)."""
    return RedNet(num_classes, spec, depths=(3, 4, 23, 3), stem_kernel_size=stem_kernel_size, in_chans=in_chans,
                  drop_rate=drop_rate, drop_path_rate=drop_path_rate)


@suggesting_arguments
def rednet152(num_classes: int = 1000, spec: Specs | None = None, *, stem_kernel_size: int = 3, in_chans: int = 3,
              drop_rate: float = 0.0, drop_path_rate: float = 0.0) -> RedNet:
    """Return :class:`RedNet`-152: 33,984,582 parameters, published top-1 79.3 % (Li et al., CVPR 2021)."""
    return RedNet(num_classes, spec, depths=(3, 8, 36, 3), stem_kernel_size=stem_kernel_size, in_chans=in_chans,
                  drop_rate=drop_rate, drop_path_rate=drop_path_rate)
