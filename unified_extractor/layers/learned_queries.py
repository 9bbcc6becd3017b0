"""The dynamic kernel of learned queries: attention whose queries are parameters, the same at every pixel.

B batch, C channels, E channels of queries and keys, G heads, M queries, K taps, Ho, Wo output positions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unified_extractor.layers.blocks import input_projection
from unified_extractor.layers.shifts import position_bias, position_table
from unified_extractor.ops.dynamic_kernels import normalized, without_outside_taps
from unified_extractor.ops.functional import generalized_unfold
from unified_extractor.ops.geometry import Geometry
from unified_extractor.spec import ExtractorSpec, as_pair


class LearnedQueryKernel(nn.Module):
    """The sum of the dynamic kernels of several learned queries: one score for every query, head and pixel, which windows sample.

    Source: Arar, Shamir and Bermano, Learned Queries for Efficient Local Attention (QnA, CVPR 2022).
    """

    def __init__(self, channels: int, groups: int, spec: ExtractorSpec, stride: tuple[int, int]) -> None:
        super().__init__()
        dynamic, queries = spec.dynamic_kernel, spec.dynamic_kernel.learned_queries
        self._spec, self.groups, self.stride = spec, groups, stride
        self.scale = (channels // groups) ** -0.5 if dynamic.scale_by_head_dim else 1.0
        self.query = nn.Parameter(torch.randn(queries, channels // dynamic.query_reduction))
        self.key = input_projection(channels, channels // dynamic.query_reduction, spec)
        self.position: nn.Parameter | None = None
        if dynamic.relative_position:
            self.position = position_table(groups * queries, as_pair(spec.kernel_size), spec)
        self.tap_scale: nn.Parameter | None = None
        if dynamic.tap_scale:
            self.tap_scale = nn.Parameter(torch.ones(groups, queries, spec.taps))

    def forward(self, x: Tensor, offsets: Tensor | None, geometry: Geometry) -> Tensor:
        """Return ``[B, G, K, Ho, Wo]`` of an image ``[B, C, H, W]`` and the offsets of its sampling points."""
        values = generalized_unfold(
            F.conv2d(self.key(x), self._queries(), groups=self.groups),
            self._spec.kernel_size,
            offsets=offsets,
            stride=self.stride,
            padding="same",
            dilation=self._spec.dilation,
        )
        if self.position is not None:
            values = values + position_bias(self.position, geometry, self._spec)
        normalization = self._spec.dynamic_kernel.normalization
        kernels = normalized(without_outside_taps(values, geometry, offsets, normalization), normalization)
        kernels = kernels.unflatten(1, (self.groups, -1))
        if self.tap_scale is not None:
            kernels = kernels * self.tap_scale[:, :, :, None, None]
        return kernels.sum(2)

    def _queries(self) -> Tensor:
        """Return the queries of every head, scaled, as the weight of a convolution ``[G*M, E/G, 1, 1]``."""
        queries = self.query.unflatten(1, (self.groups, -1))
        if self._spec.dynamic_kernel.normalize_query:
            queries = queries / (queries.norm(dim=2, keepdim=True) + 1e-6)
        return self.scale * queries.transpose(0, 1).flatten(0, 1)[:, :, None, None]
