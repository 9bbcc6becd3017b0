"""CIFAR's ResNets: pairs of 3x3 convolutions, or of any other extractors, on images of 32x32 pixels.

Source: He et al., Deep Residual Learning for Image Recognition (CVPR 2016), section 4.2. The parameters of the variants are counted
with 10 classes; the accuracies are published ones, on CIFAR-10.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

import unified_extractor.presets as presets
from unified_extractor.models.arguments import (
    Specs,
    check_size,
    check_stage_sizes,
    drop_path_rates,
    spec_of_stage,
    stage_specs,
)
from unified_extractor.models.blocks import batch_norm, convolution_norm, extractor_in_place, stochastic_depth
from unified_extractor.models.staged import PooledHead, Stage, StagedNetwork
from unified_extractor.names import suggesting_arguments
from unified_extractor.spec import ExtractorSpec


class ParameterFreeShortcut(nn.Module):
    """A shortcut without parameters (option A): every ``stride``-th pixel, and new channels of zeros behind those of the input.

    The paper does not say where the zeros stand; behind is where Facebook's released ResNet code puts them.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        if out_channels < in_channels:
            raise ValueError(f"widths must not decrease, got {in_channels} before {out_channels}")
        self.stride, self.new_channels = stride, out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, O, ceil(H/stride), ceil(W/stride)]`` for ``[B, C, H, W]``."""
        return F.pad(F.avg_pool2d(x, 1, self.stride), (0, 0, 0, 0, 0, self.new_channels))


class BasicBlock(nn.Module):
    """A residual block, ``relu(shortcut(x) + extract2(relu(extract1(x))))``, each extractor followed by batch norm."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, spec: ExtractorSpec, drop_path: float) -> None:
        super().__init__()
        self.extract1 = nn.Sequential(extractor_in_place(in_channels, out_channels, spec, stride), *batch_norm(out_channels))
        self.extract2 = nn.Sequential(
            extractor_in_place(out_channels, out_channels, spec),
            *batch_norm(out_channels, activate=False),
            *stochastic_depth(drop_path).values(),
        )
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else ParameterFreeShortcut(in_channels, out_channels, stride)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, O, ceil(H/stride), ceil(W/stride)]`` for ``[B, C, H, W]``."""
        return self.act(self.extract2(self.extract1(x)) + self.shortcut(x))


class CIFARResNet(StagedNetwork):
    """A classifier of small images: a 3x3 convolution, three stages of residual pairs of extractors, a linear classifier.

    Stages 2 and 3 begin with an extractor of stride 2. A spec that cannot change the number of channels is followed by a 1x1
    convolution there. The first convolution, which sees the image, is a convolution whatever the spec. Weights start as torch's and the
    extractors' own, not by the paper's initialization.

    Args:
        num_classes: number of outputs; 0: the pooled features.
        spec: the extractor in place of the 3x3 convolutions of all stages, or one for each stage; None: the published convolution.
        depths: pairs of every stage; n pairs in each of three stages are ResNet-(6n+2).
        widths: channels of every stage; they must not decrease. The first stage keeps the image's size, every further one halves it.
        in_chans: channels of the image.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block, growing linearly from 0.

    Shape:
        ``[B, in_chans, H, W]`` to logits ``[B, num_classes]``; the last stage's map is 4 times smaller.

    Raises:
        TypeError, ValueError: a wrong argument, a spec whose groups do not divide the channels of a stage, or an image with other
            than ``in_chans`` channels.
    """

    usual_image_size = 32

    @suggesting_arguments
    def __init__(
        self,
        num_classes: int = 10,
        spec: Specs | None = None,
        *,
        depths: Sequence[int],
        widths: Sequence[int] = (16, 32, 64),
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        check_size("in_chans", in_chans)
        check_stage_sizes(widths=widths, depths=depths)
        specs = stage_specs(presets.convolution() if spec is None else spec, len(depths))
        stages, channels, rates = [], widths[0], drop_path_rates(drop_path_rate, depths)
        for i, (width, one) in enumerate(zip(widths, specs, strict=True)):
            stride = 1 if i == 0 else 2
            with spec_of_stage(i + 1, width):
                blocks = [BasicBlock(channels, width, stride, one, rates[i][0])]
                blocks += [BasicBlock(width, width, 1, one, rate) for rate in rates[i][1:]]
            channels = width
            stages.append(Stage(*blocks, out_channels=width, stride=stride))
        super().__init__(
            in_chans=in_chans,
            num_classes=num_classes,
            specs=specs,
            stem=convolution_norm(in_chans, widths[0], 3),
            stem_stride=1,
            stages=stages,
            head=PooledHead(widths[-1], num_classes, drop_rate),
            arguments={
                "num_classes": num_classes,
                "spec": spec,
                "depths": depths,
                "widths": widths,
                "in_chans": in_chans,
                "drop_rate": drop_rate,
                "drop_path_rate": drop_path_rate,
            },
        )


# One paragraph a variant.
# fmt: off
@suggesting_arguments
def resnet20(num_classes: int = 10, spec: Specs | None = None, *, in_chans: int = 3, drop_rate: float = 0.0,
             drop_path_rate: float = 0.0) -> CIFARResNet:
    """Return :class:`CIFARResNet`-20: 269,722 parameters, published top-1 91.3 % (He et al., CVPR 2016, on CIFAR-10)."""
    return CIFARResNet(num_classes, spec, depths=(3, 3, 3), in_chans=in_chans, drop_rate=drop_rate, drop_path_rate=drop_path_rate)


@suggesting_arguments
def resnet32(num_classes: int = 10, spec: Specs | None = None, *, in_chans: int = 3, drop_rate: float = 0.0,
             drop_path_rate: float = 0.0) -> CIFARResNet:
    """Return :class:`CIFARResNet`-32: 464,154 parameters, published top-1 92.5 % (He et al., CVPR 2016, on CIFAR-10)."""
    return CIFARResNet(num_classes, spec, depths=(5, 5, 5), in_chans=in_chans, drop_rate=drop_rate, drop_path_rate=drop_path_rate)


@suggesting_arguments
def resnet56(num_classes: int = 10, spec: Specs | None = None, *, in_chans: int = 3, drop_rate: float = 0.0,
             drop_path_rate: float = 0.0) -> CIFARResNet:
    """Return :class:`CIFARResNet`-56: 853,018 parameters, published top-1 93.0 % (He et al., CVPR 2016, on CIFAR-10)."""
    return CIFARResNet(num_classes, spec, depths=(9, 9, 9), in_chans=in_chans, drop_rate=drop_rate, drop_path_rate=drop_path_rate)
