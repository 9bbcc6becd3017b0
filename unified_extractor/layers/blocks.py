"""Blocks that several parts of the layer use. Images are ``[B, C, H, W]``."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unified_extractor.ops.checks import Ints, Padding
from unified_extractor.ops.functional import extract
from unified_extractor.ops.tracing import is_recorded
from unified_extractor.spec import ExtractorSpec, Generator, as_pair


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


class AveragePool(nn.AvgPool2d):
    """An average over ``stride x stride`` pixels, at the lower and right border over those that there are."""

    def __init__(self, stride: Ints) -> None:
        super().__init__(stride, ceil_mode=True)

    def forward(self, input: Tensor) -> Tensor:
        """Return ``[B, C, ceil(H/stride), ceil(W/stride)]`` for ``[B, C, H, W]``."""
        return average_pooled(input, as_pair(self.kernel_size))


def average_pooled(x: Tensor, stride: tuple[int, int]) -> Tensor:
    """Return the average of :class:`AveragePool`, ``[B, C, ceil(H/stride), ceil(W/stride)]`` for ``[B, C, H, W]``."""
    if not is_recorded():
        return F.avg_pool2d(x, stride, stride, ceil_mode=True)
    # Ceil mode guards sizes by a rule that no exporter proves for a range of sizes. Zeros are counted here, and divided out again.
    pooled = F.avg_pool2d(F.pad(x, (0, stride[1] - 1, 0, stride[0] - 1)), stride, stride)
    for axis, step in zip((2, 3), stride, strict=True):
        left = x.shape[axis] - step * torch.arange(pooled.shape[axis], device=x.device)
        factor = step / left.clamp(max=step).to(x.dtype)
        pooled = pooled * (factor[:, None] if axis == 2 else factor)
    return pooled


class MaxPool(nn.Module):
    """The largest of ``2 x 2`` pixels, at the lower and right border of those that there are."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, C, ceil(H/2), ceil(W/2)]`` for ``[B, C, H, W]``."""
        if not is_recorded():
            return F.max_pool2d(x, 2, ceil_mode=True)
        return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 2)  # without ceil mode, as in average_pooled


def cell_means(x: Tensor, cells: tuple[int, int]) -> Tensor:
    """Return the means of an image over a grid of cells (adaptive average pooling), ``[B, C, *cells]`` for ``[B, C, H, W]``.

    Cell i of n, on an axis of L pixels, has the pixels from ``floor(i*L/n)`` to ``ceil((i + 1)*L/n) - 1``: neighbors may share one.
    """
    if not is_recorded() and not (x.is_cuda and torch.are_deterministic_algorithms_enabled()):
        return F.adaptive_avg_pool2d(x, cells)
    # Neither has an exporter a rule for sizes that vary, nor has CUDA a deterministic gradient.
    rows, columns = (_shares_of_cells(x.shape[axis], n, x) for axis, n in zip((2, 3), cells, strict=True))
    return rows @ x @ columns.t()


def _shares_of_cells(size: int, cells: int, like: Tensor) -> Tensor:
    """Return the share of each pixel of an axis in the mean of each cell, ``[cells, size]``."""
    pixel, cell = torch.arange(size, device=like.device), torch.arange(cells, device=like.device)[:, None]
    first, end = cell * size // cells, ((cell + 1) * size + cells - 1) // cells
    return ((pixel >= first) & (pixel < end)).to(like.dtype) / (end - first).to(like.dtype)


def input_projection(in_channels: int, out_channels: int, spec: ExtractorSpec) -> nn.Module:
    """Return the 1x1 convolution before the operator, of values, queries or keys; with a batch norm under the names conv and norm."""
    kind = spec.projection.input
    convolution = nn.Conv2d(in_channels, out_channels, 1, bias=kind == "affine")
    if kind != "batch_norm":
        return convolution
    layer = nn.Sequential()
    layer.add_module("conv", convolution)
    layer.add_module("norm", nn.BatchNorm2d(out_channels))
    return layer


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
