"""Blocks that several parts of the layer use. Images are ``[B, C, H, W]``."""

from torch import Tensor, nn

from unified_extractor.ops.checks import Ints, Padding
from unified_extractor.ops.functional import extract
from unified_extractor.spec import Generator


class SameConv2d(nn.Conv2d):
    """A convolution with the operator's geometry, whose padding "same" is defined for strides and even kernels too."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        *,
        stride: Ints = 1,
        padding: Padding = "same",
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, 0, dilation, groups, bias)
        self.window_padding = padding

    def forward(self, input: Tensor) -> Tensor:
        """Return ``[B, O, Ho, Wo]`` for ``[B, C, H, W]``."""
        return extract(
            input,
            kernel_size=self.kernel_size,  # type: ignore[arg-type]
            static_kernel=self.weight,
            bias=self.bias,
            stride=self.stride,  # type: ignore[arg-type]
            padding=self.window_padding,
            dilation=self.dilation,  # type: ignore[arg-type]
        )


class LayerNorm2d(nn.LayerNorm):
    """Layer normalization over the channels of every pixel."""

    def forward(self, input: Tensor) -> Tensor:
        """Return an image of the input's shape ``[B, C, H, W]``."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def hidden_layer(convolution: nn.Conv2d, generator: Generator, *, activate: bool = True) -> nn.Sequential:
    """Return a convolution followed by the generator's norm and activation, under the names conv, norm and act."""
    layer = nn.Sequential()
    layer.add_module("conv", convolution)
    if generator.norm == "batch":
        layer.add_module("norm", nn.BatchNorm2d(convolution.out_channels))
    elif generator.norm == "layer":
        layer.add_module("norm", LayerNorm2d(convolution.out_channels, eps=1e-6))
    if activate and generator.activation != "none":
        layer.add_module("act", nn.ReLU() if generator.activation == "relu" else nn.GELU())
    return layer
