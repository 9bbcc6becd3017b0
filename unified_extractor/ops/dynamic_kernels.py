"""Dynamic kernels that are made from values at their own window: the formula, and its derivative, in plain torch.

B batch, R channels of the feature, G kernel groups, K taps, Ho, Wo output positions (P of them).
"""

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from unified_extractor.ops.geometry import Geometry, precision, reads_nothing

NORMALIZATIONS = ("none", "softmax", "sigmoid")
"""Those that need no more than the values of one window."""


Products = Callable[[Tensor, Tensor, Tensor | None, int, Geometry], Tensor]
"""``(query, key, offsets, heads, window)`` to ``[B, heads, K, Ho, Wo]``: a backend's ``similarity``."""


class KernelGenerator(NamedTuple):
    """A dynamic kernel as a function of its window, ``normalized(scale * (values + bias))``.

    The values are a linear map ``weight @ feature`` or, with ``heads``, the products of a query with the keys that its window reads.
    """

    feature: Tensor
    """``[B, R, Ho, Wo]``; with heads the query ``[B, C, Ho, Wo]``."""
    weight: Tensor
    """``[G*K, R]``; of a fold ``[G*K*K, R]``, output tap before source tap; with heads the keys ``[B, C, H, W]``."""
    bias: Tensor | None
    """``[G*K]``, of a fold ``[G*K*K]``."""
    scale: float
    normalization: str
    """none, sigmoid, or softmax over the taps, of a fold over the source taps; with heads only over taps inside the image."""
    heads: int = 0
    """G of query-key products on the regular grid; 0: a linear map."""

    def plus_one(self, geometry: Geometry) -> Self:
        """What makes one plus the kernel, where that is not normalized."""
        assert self.normalization == "none"
        rows = self.heads * geometry.taps if self.heads else self.weight.shape[0]
        bias = self.weight.new_zeros(rows) if self.bias is None else self.bias
        return self._replace(bias=bias + 1 / self.scale)


def generating_work(generator: KernelGenerator, geometry: Geometry) -> int:
    """Multiply-adds of one window's kernel."""
    if generator.heads:
        return geometry.taps * generator.weight.shape[1]
    return generator.weight.shape[0] * generator.weight.shape[1]


def kernel_shape(generator: KernelGenerator, geometry: Geometry, aggregation: str) -> list[Any]:
    """``[B, G, K, Ho, Wo]``, of a fold ``[B, G, K, K, Ho, Wo]``."""
    taps = [geometry.taps] * (2 if aggregation == "fold" else 1)
    if generator.heads:
        return [generator.feature.shape[0], generator.heads, *taps, *geometry.output]
    return [generator.feature.shape[0], generator.weight.shape[0] // prod(taps), *taps, *geometry.output]


def generated_kernel(generator: KernelGenerator, geometry: Geometry, aggregation: str, similarity: Products) -> Tensor:
    """The dynamic kernel, of :func:`kernel_shape`; ``similarity``: what makes query-key products."""
    feature, weight, bias, scale, normalization, heads = generator
    if not heads:
        values = F.conv2d(feature, weight[:, :, None, None], bias)
        return normalized(_scaled(values.reshape(kernel_shape(generator, geometry, aggregation)), scale), normalization)
    values = similarity(feature, weight, None, heads, geometry)
    values = values.to(precision(values))  # a softmax of half-precision values would lose digits of the position
    if bias is not None:
        values = values + bias.view(heads, -1)[:, :, None, None]
    return normalized(inside_alone(_scaled(values, scale), geometry, None, normalization), normalization).to(feature.dtype)


def _scaled(values: Tensor, scale: float) -> Tensor:
    return values if scale == 1 else scale * values


def inside_alone(values: Tensor, geometry: Geometry, offsets: Tensor | None, normalization: str) -> Tensor:
    """Query-key products ``[B, G, K, Ho, Wo]`` with those of taps that read nothing out of a softmax's reach."""
    if normalization != "softmax":
        return values
    # The lowest finite value, not -inf: a window wholly outside stays finite, and reads zeros anyway.
    outside = reads_nothing(geometry, offsets, values.device)
    outside = outside.repeat_interleave(values.shape[1] // outside.shape[1], 1)
    return values.masked_fill(outside, torch.finfo(values.dtype).min)


def values_gradient(generator: KernelGenerator, kernel: Tensor, gradient: Tensor) -> Tensor:
    """That of values and bias, from the kernel that :func:`generated_kernel` made and its gradient; all of one shape."""
    return _scaled(normalized_gradient(kernel, gradient, generator.normalization), generator.scale)


def map_gradients(generator: KernelGenerator, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A linear map's of feature, weight and bias, from that of its values."""
    feature, weight = generator.feature.flatten(2), generator.weight
    values = values.reshape(feature.shape[0], weight.shape[0], feature.shape[2])
    of_feature = (weight.t() @ values).view_as(generator.feature)
    return of_feature, (values @ feature.transpose(1, 2)).sum(0), values.sum((0, 2))


def normalized(values: Tensor, normalization: str) -> Tensor:
    """Softmax over the taps (axis -3: for fold the source taps), sigmoid, or as they are."""
    if normalization == "softmax":
        return values.softmax(-3)
    return values.sigmoid() if normalization == "sigmoid" else values


def normalized_gradient(kernel: Tensor, gradient: Tensor, normalization: str) -> Tensor:
    """The values' gradient from that of the normalized kernel."""
    if normalization == "softmax":
        weighed = kernel * gradient
        return weighed - kernel * weighed.sum(-3, keepdim=True)
    return gradient * kernel * (1 - kernel) if normalization == "sigmoid" else gradient
