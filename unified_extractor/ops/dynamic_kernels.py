"""Dynamic kernels that are computed from values at their own window: the formulas and their derivatives, in plain torch.

B batch, C channels of the image, E channels of queries and keys, R channels of a feature, G kernel groups (heads), K taps,
Ho, Wo output positions (P of them).
"""

from collections.abc import Callable
from math import prod
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unified_extractor.ops.geometry import Geometry, precision
from unified_extractor.ops.offsets import samples_nothing
from unified_extractor.ops.tracing import with_plain_strides

Normalization = Literal["none", "softmax", "sigmoid"]
NORMALIZATIONS: tuple[Normalization, ...] = ("none", "softmax", "sigmoid")
"""The normalizations that need no more than the values of one window."""


class LinearKernel(NamedTuple):
    """A dynamic kernel that is a linear map of a feature at every window: ``normalized(scale * (weight @ feature + bias))``.

    It stands in the place of a ``dynamic_kernel``. The kernel need not be stored: each part of it is computed where it is used, and
    again in backward, so autograd saves ``feature`` instead of a kernel that for involution has three times as many values as the image.
    """

    feature: Tensor
    """``[B, R, Ho, Wo]``."""
    weight: Tensor
    """``[G*K, R]``, of a fold ``[G*K*K, R]`` (output tap before source tap): the weight of a 1x1 convolution, flattened."""
    bias: Tensor | None = None
    """``[G*K]``, of a fold ``[G*K*K]``."""
    scale: float = 1.0
    """Factor of the values before they are normalized: finite, not 0."""
    normalization: Normalization = "none"
    """``none``, ``sigmoid``, or ``softmax`` over the taps, of a fold over the source taps."""


class AttentionKernel(NamedTuple):
    """The dynamic kernel of local attention: ``normalized(query . key~ + position)``, with the keys that a query's window samples.

    It stands in the place of a ``dynamic_kernel`` of a gather; as with :class:`LinearKernel`, the kernel need not be stored. A softmax
    takes only taps inside the image.

    Source: Ramachandran et al., Stand-Alone Self-Attention in Vision Models (NeurIPS 2019).
    """

    query: Tensor
    """``[B, E, Ho, Wo]``, one for each window, scaled already."""
    key: Tensor
    """``[B, E, H, W]``, an image that is sampled at the taps like ``x``."""
    heads: int
    """G, the number of contiguous channel groups of query, key and ``x``; it divides E and C."""
    position: Tensor | None = None
    """``[G, kh, kw]``, added to the product of each tap; may be float32 beside half precision."""
    normalization: Normalization = "softmax"
    """``softmax`` or ``sigmoid`` of the products, or ``none``."""


ComputedKernel = LinearKernel | AttentionKernel
"""The kernels that can be computed instead of being stored."""

Similarity = Callable[[Tensor, Tensor, int], Tensor]
"""``(query, key, heads)`` to the products ``[B, G, K, Ho, Wo]`` of each query with the keys at the taps of its window."""


def is_scaled_to_nothing(kernel: ComputedKernel, x: Tensor) -> bool:
    """Return whether ``1/scale`` is out of reach of the dtype, so that no bias adds one to the kernel."""
    return isinstance(kernel, LinearKernel) and abs(kernel.scale) * torch.finfo(x.dtype).max <= 1


def plus_one(kernel: ComputedKernel, geometry: Geometry) -> ComputedKernel:
    """Return one plus an unnormalized kernel: one more in what is added to its values."""
    assert kernel.normalization == "none"
    if isinstance(kernel, AttentionKernel):
        position = kernel.position
        if position is None:
            position = kernel.key.new_zeros(kernel.heads, *geometry.kernel_size)
        return kernel._replace(position=position + 1)
    bias = kernel.weight.new_zeros(kernel.weight.shape[0]) if kernel.bias is None else kernel.bias
    return kernel._replace(bias=bias + 1 / kernel.scale)


def kernel_shape(kernel: ComputedKernel, geometry: Geometry, aggregation: str) -> list[int]:
    """Return the shape of the kernel, ``[B, G, K, Ho, Wo]``, of a fold ``[B, G, K, K, Ho, Wo]``."""
    taps = [geometry.taps] * (2 if aggregation == "fold" else 1)
    if isinstance(kernel, AttentionKernel):
        return [kernel.query.shape[0], kernel.heads, *taps, *geometry.output]
    return [kernel.feature.shape[0], kernel.weight.shape[0] // prod(taps), *taps, *geometry.output]


def linear_kernel(kernel: LinearKernel, geometry: Geometry, aggregation: str) -> Tensor:
    """Compute the dynamic kernel of :func:`kernel_shape`."""
    values = F.conv2d(kernel.feature, kernel.weight[:, :, None, None], kernel.bias)
    values = with_plain_strides(values).reshape(kernel_shape(kernel, geometry, aggregation))
    return normalized(scaled(values, kernel.scale), kernel.normalization)


def attention_kernel(kernel: AttentionKernel, geometry: Geometry, offsets: Tensor | None, similarity: Similarity) -> Tensor:
    """Compute the dynamic kernel ``[B, G, K, Ho, Wo]``; ``similarity`` computes the products, at the same taps."""
    values = similarity(kernel.query, kernel.key, kernel.heads)
    values = values.to(precision(values))  # a softmax of half-precision values would lose digits of the position
    if kernel.position is not None:
        values = values + kernel.position.flatten(1)[:, :, None, None]
    values = without_outside_taps(values, geometry, offsets, kernel.normalization)
    return normalized(values, kernel.normalization).to(kernel.query.dtype)


def region_products(query: Tensor, keys: Tensor, weight: Tensor, bias: Tensor, heads: int) -> Tensor:
    """Compute the products of each query with the keys of R regions, mapped linearly to K values: ``[B, G, K, Ho, Wo]``.

    The map meets the keys, once an image: ``sum_r W[k,r] (q . key_r) = q . (sum_r W[k,r] key_r)``.

    Args:
        query: one for each window, ``[B, E, Ho, Wo]``.
        keys: one for each region, ``[B, E, R]``.
        weight: W, ``[K, R]``.
        bias: what is added to the values, ``[K]``.
        heads: G, contiguous channel groups over which products are summed.
    Source: Lou and Yu, OverLoCK (CVPR 2025).
    """
    of_taps = keys.unflatten(1, (heads, -1)) @ weight.t()  # [B, G, E/G, K]
    products = of_taps.transpose(2, 3) @ query.flatten(2).unflatten(1, (heads, -1))
    return (products + bias[:, None]).unflatten(3, query.shape[2:])


def scaled(values: Tensor, scale: float) -> Tensor:
    """Multiply by a number, without an operation where it is 1."""
    return values if scale == 1 else scale * values


def without_outside_taps(values: Tensor, geometry: Geometry, offsets: Tensor | None, normalization: str) -> Tensor:
    """Exclude taps outside the image from a softmax of query-key products ``[B, G, K, Ho, Wo]``."""
    if normalization != "softmax":
        return values
    # The lowest finite value, not -inf: a window wholly outside stays finite, and samples zeros anyway.
    outside = samples_nothing(geometry, offsets, values.device)
    outside = outside.repeat_interleave(values.shape[1] // outside.shape[1], 1)
    return values.masked_fill(outside, torch.finfo(values.dtype).min)


def normalized(values: Tensor, normalization: str) -> Tensor:
    """Take the softmax over the taps (axis -3, for fold the source taps), standardize over them, or take sigmoids or the values as is."""
    if normalization == "softmax":
        return values.softmax(-3)
    if normalization == "standardized":
        return _standardized(values)
    return values.sigmoid() if normalization == "sigmoid" else values


def _standardized(values: Tensor) -> Tensor:
    """Shift and scale the taps (axis -3) to mean zero and unit deviation, unbiased.

    Source: the filter normalization of Zhou et al., Decoupled Dynamic Filter Networks (CVPR 2021).
    """
    wide = values.to(precision(values))
    deviation, mean = torch.std_mean(wide, -3, keepdim=True)
    return ((wide - mean) / (deviation + 1e-10)).to(values.dtype)


def centered(values: Tensor, logits: Tensor) -> Tensor:
    """Subtract from every tap (axis -3) a share of the taps' mean.

    Args:
        values: ``[B, G, K, h, w]``, of M terms ``[B, M, G, K, h, w]``, of a fold ``[B, G, K, K, h, w]``.
        logits: ``[G]``, of M terms ``[M, G]``; the share is their sigmoid.
    Source: Attentive Convolution (arXiv 2510.20092), with one group a channel.
    """
    share = logits.sigmoid()[(..., *[None] * (values.dim() - 1 - logits.dim()))]
    return values - share * values.mean(-3, keepdim=True)


def normalized_backward(kernel: Tensor, gradient: Tensor, normalization: str) -> Tensor:
    """Return the gradient of the values, from the normalized kernel and its gradient."""
    if normalization == "softmax":
        weighted = kernel * gradient
        return weighted - kernel * weighted.sum(-3, keepdim=True)
    return gradient * kernel * (1 - kernel) if normalization == "sigmoid" else gradient


def linear_map_backward(kernel: LinearKernel, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of feature, weight and bias, from that of the map's values (scale included)."""
    feature, weight = kernel.feature.flatten(2), kernel.weight
    gradient = gradient.reshape(feature.shape[0], weight.shape[0], feature.shape[2])
    grad_feature = (weight.t() @ gradient).view_as(kernel.feature)
    return grad_feature, (gradient @ feature.transpose(1, 2)).sum(0), gradient.sum((0, 2))
