"""The dynamic kernel of regions: what a pixel finds in a few regions of the image makes its window's kernel.

B batch, C channels, E channels of query and keys, G heads, R regions, K taps of a window, Ho, Wo output positions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unified_extractor.layers.blocks import average_pooled, cell_means, input_projection
from unified_extractor.layers.shifts import position_bias, position_table
from unified_extractor.ops.dynamic_kernels import normalized, region_products
from unified_extractor.ops.geometry import Geometry
from unified_extractor.spec import ExtractorSpec, as_pair


class RegionKernel(nn.Module):
    """The dynamic kernel of products of query and the keys of regions, which one linear map, shared by the heads, turns into taps' values.

    Source: Lou and Yu, OverLoCK (CVPR 2025), whose heads have kernels of two sizes.
    """

    def __init__(self, channels: int, heads: int, spec: ExtractorSpec, stride: tuple[int, int]) -> None:
        super().__init__()
        dynamic, small = spec.dynamic_kernel, spec.dynamic_kernel.small_kernel_size
        self._spec, self.heads, self.stride, self.normalization = spec, heads, stride, dynamic.normalization
        self.regions = as_pair(dynamic.regions)
        self.scale = (channels // heads) ** -0.5 if dynamic.scale_by_head_dim else 1.0
        self.query = input_projection(channels, channels // dynamic.query_reduction, spec)
        self.key = input_projection(channels, channels // dynamic.query_reduction, spec)
        windows = [as_pair(size) for size in (small, spec.kernel_size) if size is not None]
        regions, taps = self.regions[0] * self.regions[1], sum(kh * kw for kh, kw in windows)
        self.tap_weight = nn.Parameter(torch.empty(taps, regions).uniform_(-(regions**-0.5), regions**-0.5))
        self.tap_bias = nn.Parameter(torch.empty(taps).uniform_(-(regions**-0.5), regions**-0.5))
        tables = [position_table(heads, size, spec) for size in windows] if dynamic.relative_position else []
        self.positions = nn.ParameterList(tables)

    def forward(self, x: Tensor, windows: Sequence[Geometry]) -> list[Tensor]:
        """Return the kernels ``[B, G, K, Ho, Wo]`` of each window, the smaller one first, of an image ``[B, C, H, W]``."""
        query = self.query(x if self.stride == (1, 1) else average_pooled(x, self.stride)) * self.scale
        keys = self.key(cell_means(x, self.regions)).flatten(2)
        values = region_products(query, keys, self.tap_weight, self.tap_bias, self.heads)
        kernels = values.split([window.taps for window in windows], 2)
        if self.positions:
            tables = zip(kernels, self.positions, windows, strict=True)
            kernels = tuple(kernel + position_bias(table, window, self._spec) for kernel, table, window in tables)
        return [normalized(kernel, self.normalization) for kernel in kernels]


def in_one_window(kernels: Sequence[Tensor], windows: Sequence[Geometry]) -> Tensor:
    """Return kernels of two windows as one of the larger, ``[B, 2G, K, Ho, Wo]``: the smaller window's has zeros around it."""
    if len(kernels) == 1:
        return kernels[0]
    small, large = windows
    rows, columns = ((k - s) // 2 for k, s in zip(large.kernel_size, small.kernel_size, strict=True))
    inner = kernels[0].unflatten(2, small.kernel_size)
    framed = nn.functional.pad(inner, (0, 0, 0, 0, columns, columns, rows, rows)).flatten(2, 3)
    return torch.cat([framed, kernels[1]], 1)
