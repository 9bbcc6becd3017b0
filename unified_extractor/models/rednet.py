"""RedNet: ResNet's bottleneck with involution in place of its 3x3 convolution, or with any other extractor.

Source: Li et al., Involution: Inverting the Inherence of Convolution for Visual Recognition (CVPR 2021).
"""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from unified_extractor import presets
from unified_extractor.layers.strided import strided_extractor
from unified_extractor.models.sizes import check_sizes
from unified_extractor.spec import ExtractorSpec

_EXPANSION = 4
_WIDTHS = (64, 128, 256, 512)


def _convolution(
    in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, *, activate: bool = True
) -> nn.Sequential:
    """Convolution, batch norm and, if asked for, ReLU."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
    return nn.Sequential(convolution, *_normalised(out_channels, activate))


def _normalised(channels: int, activate: bool = True) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), *([nn.ReLU(inplace=True)] if activate else [])]


class Bottleneck(nn.Module):
    """``relu(shortcut(x) + expand(extract(reduce(x))))``."""

    def __init__(self, in_channels: int, width: int, stride: int, spec: ExtractorSpec) -> None:
        super().__init__()
        out_channels = width * _EXPANSION
        self.reduce = _convolution(in_channels, width)
        self.extract = nn.Sequential(strided_extractor(width, width, spec, stride), *_normalised(width))
        self.expand = _convolution(width, out_channels, activate=False)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else _convolution(in_channels, out_channels, 1, stride, activate=False)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, 4*width, ceil(H/stride), ceil(W/stride)]``."""
        return self.act(self.expand(self.extract(self.reduce(x))) + self.shortcut(x))


class RedNet(nn.Module):
    """A staged image classifier of bottlenecks; the extractor in them is the argument.

    Args:
        depths: bottlenecks of the four stages.
        num_classes: outputs.
        spec: the extractor of every bottleneck; None: the published one, involution of 7x7 taps and 16 channels a kernel.
        stem_kernel_size: taps of the stem's involution: 3 in the released code, 7 gives the paper's table.
        in_chans: channels of the image.

    Shape:
        ``[B, in_chans, H, W]`` to logits ``[B, num_classes]``; the last stage's map is 32 times smaller.

    Raises:
        ValueError, TypeError: sizes that are no positive ints, an image with
            other than ``in_chans`` channels, or widths that the spec's groups do not divide.
    """

    def __init__(
        self,
        depths: Sequence[int],
        num_classes: int = 1000,
        spec: ExtractorSpec | None = None,
        *,
        stem_kernel_size: int = 3,
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        spec = presets.involution(kernel_size=7) if spec is None else spec
        for name, value in (("num_classes", num_classes), ("in_chans", in_chans), ("stem_kernel_size", stem_kernel_size)):
            check_sizes(name, [value])
        check_sizes("depths", depths)
        self.num_classes, self.in_chans = num_classes, in_chans
        stem = strided_extractor(32, 32, presets.involution(kernel_size=stem_kernel_size), 1)
        self.stem = nn.Sequential(
            _convolution(in_chans, 32, 3, 2), stem, *_normalised(32), _convolution(32, 64, 3), nn.MaxPool2d(3, 2, 1)
        )
        self.stages = nn.Sequential()
        channels = 64
        for width, depth in zip(_WIDTHS, depths, strict=True):
            stride = 1 if width == _WIDTHS[0] else 2
            inputs = [channels] + [width * _EXPANSION] * (depth - 1)
            self.stages.append(
                nn.Sequential(*(Bottleneck(n, width, stride if i == 0 else 1, spec) for i, n in enumerate(inputs)))
            )
            channels = width * _EXPANSION
        self.head = nn.Linear(channels, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """``[B, in_chans, H, W]`` to the last stage's map ``[B, 2048, ceil(H/32), ceil(W/32)]``."""
        if x.dim() != 4 or x.shape[1] != self.in_chans:
            raise ValueError(f"x must be [B, in_chans, H, W] with in_chans={self.in_chans}, got shape {list(x.shape)}")
        return self.stages(self.stem(x))

    def forward_head(self, x: Tensor) -> Tensor:
        """The last stage's map to logits ``[B, num_classes]``: global average, linear."""
        return self.head(x.mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_chans, H, W]`` to logits ``[B, num_classes]``."""
        return self.forward_head(self.forward_features(x))


rednet26 = partial(RedNet, (1, 2, 4, 1))
rednet38 = partial(RedNet, (2, 3, 5, 2))
rednet50 = partial(RedNet, (3, 4, 6, 3))
rednet101 = partial(RedNet, (3, 4, 23, 3))
rednet152 = partial(RedNet, (3, 8, 36, 3))
