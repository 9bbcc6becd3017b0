"""Sums over taps with hand-written gradients: autograd would save the values of every tap for backward, these save the inputs alone.

B batch, C input channels, O output channels, G kernel groups, K taps, I outputs of a window (1; fold: K), Ho, Wo output positions.
"""

from collections.abc import Iterable
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from unified_extractor.ops.autocast import full_precision_backward
from unified_extractor.ops.backends.eager.taps import Wanted, taps_of
from unified_extractor.ops.batching import batched_backward
from unified_extractor.ops.geometry import Geometry, canvas, cropped, padded, precision
from unified_extractor.ops.shapes_only import SHAPES_ONLY
from unified_extractor.ops.tracing import returned

Gradients = tuple[Tensor | None, ...]


class _Kernels:
    """The static and the dynamic kernel, applied to one tap at a time: ``S_k (D_ik * value)``. An absent kernel is 1."""

    def __init__(self, static_kernel: Tensor | None, dynamic_kernel: Tensor | None, fold: bool) -> None:
        self.static_kernel = static_kernel if static_kernel is None else static_kernel.flatten(2)
        self.dynamic_kernel = dynamic_kernel if dynamic_kernel is None or fold else dynamic_kernel.unsqueeze(2)

    def add(self, output: Tensor, value: Tensor, i: int, k: int) -> None:
        """Add tap k's contribution to output i of every window, in place."""
        if self.static_kernel is None and self.dynamic_kernel is not None:
            weight = self.dynamic_kernel[:, :, i, k, None]
            _grouped(output, weight).addcmul_(_grouped(value, weight), weight)
        else:
            output += self.convolved(self.weighted(value, i, k), k)

    def weighted(self, value: Tensor, i: int, k: int) -> Tensor:
        """Return ``D_ik * value``, ``[B, C, Ho, Wo]``."""
        if self.dynamic_kernel is None:
            return value
        weight = self.dynamic_kernel[:, :, i, k, None]
        return (_grouped(value, weight) * weight).flatten(1, 2)

    def grad_dynamic_kernel(self, grad_weighted: Tensor, value: Tensor, i: int, k: int) -> Tensor:
        """Return the gradient of ``D_ik``, from that of ``D_ik * value``."""
        weight = self.dynamic_kernel[:, :, i, k]  # type: ignore[index]
        return _grouped(grad_weighted * value, weight).sum(2).sum_to_size(*weight.shape).to(weight.dtype)

    def convolved(self, value: Tensor, k: int) -> Tensor:
        """Return ``S_k`` applied to the channels, ``[B, O, Ho, Wo]``."""
        if self.static_kernel is None:
            return value
        weight = self.static_kernel[:, :, k, None, None].to(value.dtype)
        return value * weight[:, 0] if self._is_depthwise(value) else F.conv2d(value, weight, groups=self._groups(value))

    def convolved_backward(self, gradient: Tensor, channels: int, k: int) -> Tensor:
        """Return the gradient of the value, ``[B, C, Ho, Wo]``, from that of :meth:`convolved`."""
        if self.static_kernel is None:
            return gradient
        weight = self.static_kernel[:, :, k, None, None].to(gradient.dtype)
        if weight.shape[:2] == (channels, 1):
            return gradient * weight[:, 0]
        return F.conv_transpose2d(gradient, weight, groups=channels // weight.shape[1])

    def grad_static_kernel(self, value: Tensor, gradient: Tensor, k: int) -> Tensor:
        """Return the gradient of ``S_k``, ``[O, C/groups]``, from the value and the gradient of :meth:`convolved`."""
        weight = self.static_kernel[:, :, k]  # type: ignore[index]
        if self._is_depthwise(value):
            return (value * gradient).sum((0, 2, 3)).unsqueeze(1)
        value = value.to(gradient.dtype)
        return conv2d_weight(value, (*weight.shape, 1, 1), gradient, groups=self._groups(value)).flatten(1)

    def _groups(self, value: Tensor) -> int:
        return value.shape[1] // self.static_kernel.shape[1]  # type: ignore[union-attr]

    def _is_depthwise(self, value: Tensor) -> bool:
        return self.static_kernel.shape[:2] == (value.shape[1], 1)  # type: ignore[union-attr]


class TapSum(torch.autograd.Function):
    """The weighted sums ``y_i = sum_k S_k (D_ik * x~_k)``; gather returns y, fold adds y_i at the pixels of tap i."""

    @staticmethod
    def forward(
        x: Tensor,
        static_kernel: Tensor | None,
        dynamic_kernel: Tensor | None,
        offsets: Tensor | None,
        geometry: Geometry,
        fold: bool,
    ) -> Tensor:
        kernels, taps = _Kernels(static_kernel, dynamic_kernel, fold), taps_of(x, offsets, geometry)
        channels = x.shape[1] if static_kernel is None else static_kernel.shape[0]
        y = canvas(x, channels, geometry) if fold else x.new_zeros(x.shape[0], channels, *geometry.output, dtype=precision(x))
        count = min(geometry.taps, 2) if x.is_meta and SHAPES_ONLY.get() else geometry.taps
        for k in range(count):
            value = taps.sample(k).value.to(y.dtype)
            for i in range(count if fold else 1):
                kernels.add(_output(y, i, geometry, fold), value, i, k)
        return returned(cropped(y, geometry).contiguous() if fold else y, x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.geometry, ctx.fold = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    @batched_backward
    @full_precision_backward
    def backward(ctx: Any, grad_y: Tensor) -> Gradients:
        x, static_kernel, dynamic_kernel, offsets = ctx.saved_tensors
        needs_x, needs_static, needs_dynamic, needs_offsets = ctx.needs_input_grad[:4]
        geometry, fold = ctx.geometry, ctx.fold
        kernels = _Kernels(static_kernel, dynamic_kernel, fold)
        taps = taps_of(x, offsets, geometry, Wanted(needs_x, needs_offsets))
        grad_y = grad_y.to(precision(x))
        grad_canvas = padded(grad_y, geometry) if fold else grad_y
        grad_outputs = [_output(grad_canvas, i, geometry, fold) for i in range(geometry.taps if fold else 1)]
        grad_static, grad_dynamic = [], []
        for k in range(geometry.taps):
            tap = taps.sample(k)
            value = tap.value.to(grad_y.dtype)
            grad_weighted = [kernels.convolved_backward(g, x.shape[1], k) for g in grad_outputs]
            if needs_static:
                terms = (kernels.grad_static_kernel(kernels.weighted(value, i, k), g, k) for i, g in enumerate(grad_outputs))
                grad_static.append(_total(terms))
            if needs_dynamic:
                rows = [kernels.grad_dynamic_kernel(g, value, i, k) for i, g in enumerate(grad_weighted)]
                grad_dynamic.append(torch.stack(rows, 2))
            taps.add_gradient(tap, _total(kernels.weighted(g, i, k) for i, g in enumerate(grad_weighted)))
        grad_static_kernel = torch.stack(grad_static, 2).view_as(static_kernel).to(static_kernel.dtype) if needs_static else None
        grad_dynamic_kernel = torch.stack(grad_dynamic, 3).view_as(dynamic_kernel) if needs_dynamic else None
        grad_x, grad_offsets = taps.gradients()
        return grad_x, grad_static_kernel, grad_dynamic_kernel, grad_offsets, None, None


class TapProducts(torch.autograd.Function):
    """The query-key products ``[B, G, K, Ho, Wo]`` of each query with the keys at its taps, summed over a head's channels."""

    @staticmethod
    def forward(query: Tensor, key: Tensor, offsets: Tensor | None, heads: int, geometry: Geometry) -> Tensor:
        taps, query_ = taps_of(key, offsets, geometry), query.to(precision(query))
        products = [
            (taps.sample(k).value * query_).unflatten(1, (heads, -1)).sum(2).to(query.dtype) for k in range(geometry.taps)
        ]
        return torch.stack(products, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.heads, ctx.geometry = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    @batched_backward
    @full_precision_backward
    def backward(ctx: Any, grad_products: Tensor) -> Gradients:
        query, key, offsets = ctx.saved_tensors
        _, needs_key, needs_offsets, *_ = ctx.needs_input_grad
        taps = taps_of(key, offsets, ctx.geometry, Wanted(needs_key, needs_offsets))
        grad_query = torch.zeros_like(query, dtype=precision(query))
        kernels = _Kernels(None, grad_products.to(grad_query.dtype), fold=False)
        for k in range(ctx.geometry.taps):
            tap = taps.sample(k)
            grad_query = grad_query + kernels.weighted(tap.value, 0, k)
            taps.add_gradient(tap, kernels.weighted(query.to(grad_query.dtype), 0, k))
        return grad_query.to(query.dtype), *taps.gradients(), None, None


class Sample(torch.autograd.Function):
    """The bilinear samples of every tap of every window, ``[B, C, K, Ho, Wo]``."""

    @staticmethod
    def forward(x: Tensor, offsets: Tensor, geometry: Geometry) -> Tensor:
        taps = taps_of(x, offsets, geometry)
        return torch.stack([taps.sample(k).value.to(x.dtype) for k in range(geometry.taps)], 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.geometry = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    @batched_backward
    @full_precision_backward
    def backward(ctx: Any, grad_samples: Tensor) -> Gradients:
        x, offsets = ctx.saved_tensors
        taps = taps_of(x, offsets, ctx.geometry, Wanted(*ctx.needs_input_grad[:2]))
        for k in range(ctx.geometry.taps):
            taps.add_gradient(taps.sample(k), grad_samples[:, :, k].to(precision(x)))
        return *taps.gradients(), None


def _output(y: Tensor, i: int, geometry: Geometry, fold: bool) -> Tensor:
    """Return output i of every window, ``[B, O, Ho, Wo]``: a view, made anew for each addition, since export allows no other."""
    return y[:, :, *geometry.slices(geometry.tap_indices[i])] if fold else y


def _grouped(value: Tensor, weight: Tensor) -> Tensor:
    """Return ``[B, C, Ho, Wo]`` as ``[B, G, C/G, Ho, Wo]``, for a weight of G groups."""
    return value.unflatten(1, (weight.shape[1], -1))


def _total(values: Iterable[Tensor]) -> Tensor:
    return reduce(torch.add, values)
