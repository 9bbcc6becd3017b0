"""Sums over taps with hand-written gradients: autograd would keep every tap's value, these keep the inputs alone.

B batch, C input channels, O output channels, G kernel groups, K taps, I outputs of a window (1; fold: K), Ho, Wo output positions.
"""

from collections.abc import Iterable
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from unified_extractor.ops.autocast import full_precision_backward, returned
from unified_extractor.ops.backends.eager.taps import Wanted, taps
from unified_extractor.ops.geometry import Geometry, canvas, cropped, padded, precision

Gradients = tuple[Tensor | None, ...]


class _Kernels:
    """``S_k (D_ik * value)`` and its adjoint; an absent kernel is 1."""

    def __init__(self, static: Tensor | None, dynamic: Tensor | None, fold: bool) -> None:
        self.static = static if static is None else static.flatten(2)
        self.dynamic = dynamic if dynamic is None or fold else dynamic.unsqueeze(2)

    def add(self, output: Tensor, value: Tensor, i: int, k: int) -> None:
        """Add tap k's contribution to output i of every window, in place."""
        if self.static is None and self.dynamic is not None:
            weight = self.dynamic[:, :, i, k, None]
            _grouped(output, weight).addcmul_(_grouped(value, weight), weight)
        else:
            output += self.mixed(self.weighted(value, i, k), k)

    def weighted(self, value: Tensor, i: int, k: int) -> Tensor:
        """``D_ik * value``, ``[B, C, Ho, Wo]``."""
        if self.dynamic is None:
            return value
        weight = self.dynamic[:, :, i, k, None]
        return (_grouped(value, weight) * weight).flatten(1, 2)

    def dynamic_gradient(self, pulled: Tensor, value: Tensor, i: int, k: int) -> Tensor:
        """Gradient of ``D_ik``, from that of ``D_ik * value``."""
        weight = self.dynamic[:, :, i, k]  # type: ignore[index]
        return _grouped(pulled * value, weight).sum(2).sum_to_size(*weight.shape).to(weight.dtype)

    def mixed(self, value: Tensor, k: int) -> Tensor:
        """``S_k`` applied across channels, ``[B, O, Ho, Wo]``."""
        if self.static is None:
            return value
        static = self.static[:, :, k, None, None].to(value.dtype)
        return value * static[:, 0] if self._each_alone(value) else F.conv2d(value, static, groups=self._groups(value))

    def pulled(self, gradient: Tensor, channels: int, k: int) -> Tensor:
        """The adjoint of :meth:`mixed`, ``[B, C, Ho, Wo]``."""
        if self.static is None:
            return gradient
        static = self.static[:, :, k, None, None].to(gradient.dtype)
        if static.shape[:2] == (channels, 1):
            return gradient * static[:, 0]
        return F.conv_transpose2d(gradient, static, groups=channels // static.shape[1])

    def static_gradient(self, value: Tensor, gradient: Tensor, k: int) -> Tensor:
        """Gradient of ``S_k``, ``[O, C/groups]``, from its input and the gradient of its output."""
        static = self.static[:, :, k]  # type: ignore[index]
        if self._each_alone(value):
            return (value * gradient).sum((0, 2, 3)).unsqueeze(1)
        value = value.to(gradient.dtype)
        return conv2d_weight(value, (*static.shape, 1, 1), gradient, groups=self._groups(value)).flatten(1)

    def _groups(self, value: Tensor) -> int:
        return value.shape[1] // self.static.shape[1]  # type: ignore[union-attr]

    def _each_alone(self, value: Tensor) -> bool:
        return self.static.shape[:2] == (value.shape[1], 1)  # type: ignore[union-attr]


class TapSum(torch.autograd.Function):
    """``y_i = sum_k S_k (D_ik * x~_k)``; gather returns y, fold adds y_i where tap i lies."""

    @staticmethod
    def forward(
        x: Tensor, static: Tensor | None, dynamic: Tensor | None, offsets: Tensor | None, geometry: Geometry, fold: bool
    ) -> Tensor:
        kernels, reader = _Kernels(static, dynamic, fold), taps(x, offsets, geometry)
        channels = x.shape[1] if static is None else static.shape[0]
        y = canvas(x, channels, geometry) if fold else x.new_zeros(x.shape[0], channels, *geometry.output, dtype=precision(x))
        for k in range(geometry.taps):
            value = reader.read(k).value.to(y.dtype)
            for i in range(geometry.taps if fold else 1):
                kernels.add(_output(y, i, geometry, fold), value, i, k)
        return returned(cropped(y, geometry).contiguous() if fold else y, x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.geometry, ctx.fold = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    @full_precision_backward
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        x, static, dynamic, offsets = ctx.saved_tensors
        needs_x, needs_static, needs_dynamic, needs_offsets = ctx.needs_input_grad[:4]
        geometry, fold = ctx.geometry, ctx.fold
        kernels, reader = _Kernels(static, dynamic, fold), taps(x, offsets, geometry, Wanted(needs_x, needs_offsets))
        gradient = gradient.to(precision(x))
        canvas_gradient = padded(gradient, geometry) if fold else gradient
        gradients = [_output(canvas_gradient, i, geometry, fold) for i in range(geometry.taps if fold else 1)]
        of_static, of_dynamic = [], []
        for k in range(geometry.taps):
            tap = reader.read(k)
            value = tap.value.to(gradient.dtype)
            pulled = [kernels.pulled(g, x.shape[1], k) for g in gradients]
            if needs_static:
                of_static.append(
                    _total(kernels.static_gradient(kernels.weighted(value, i, k), g, k) for i, g in enumerate(gradients))
                )
            if needs_dynamic:
                of_dynamic.append(torch.stack([kernels.dynamic_gradient(p, value, i, k) for i, p in enumerate(pulled)], 2))
            reader.accumulate(tap, _total(kernels.weighted(p, i, k) for i, p in enumerate(pulled)))
        static_gradient = torch.stack(of_static, 2).view_as(static).to(static.dtype) if needs_static else None
        dynamic_gradient = torch.stack(of_dynamic, 3).view_as(dynamic) if needs_dynamic else None
        x_gradient, offset_gradient = reader.gradients()
        return x_gradient, static_gradient, dynamic_gradient, offset_gradient, None, None


class TapProducts(torch.autograd.Function):
    """``[B, G, K, Ho, Wo]``: a query's products with the keys at its taps, summed over a head's channels."""

    @staticmethod
    def forward(query: Tensor, key: Tensor, offsets: Tensor | None, heads: int, geometry: Geometry) -> Tensor:
        reader, query_ = taps(key, offsets, geometry), query.to(precision(query))
        products = [
            (reader.read(k).value * query_).unflatten(1, (heads, -1)).sum(2).to(query.dtype) for k in range(geometry.taps)
        ]
        return torch.stack(products, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.heads, ctx.geometry = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    @full_precision_backward
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        query, key, offsets = ctx.saved_tensors
        _, needs_key, needs_offsets, *_ = ctx.needs_input_grad
        reader = taps(key, offsets, ctx.geometry, Wanted(needs_key, needs_offsets))
        of_query = torch.zeros_like(query, dtype=precision(query))
        kernels = _Kernels(None, gradient.to(of_query.dtype), fold=False)
        for k in range(ctx.geometry.taps):
            tap = reader.read(k)
            of_query = of_query + kernels.weighted(tap.value, 0, k)
            reader.accumulate(tap, kernels.weighted(query.to(of_query.dtype), 0, k))
        return of_query.to(query.dtype), *reader.gradients(), None, None


class Sample(torch.autograd.Function):
    """``[B, C, K, Ho, Wo]``: what every tap of every window reads."""

    @staticmethod
    def forward(x: Tensor, offsets: Tensor, geometry: Geometry) -> Tensor:
        reader = taps(x, offsets, geometry)
        return torch.stack([reader.read(k).value.to(x.dtype) for k in range(geometry.taps)], 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.geometry = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    @full_precision_backward
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        x, offsets = ctx.saved_tensors
        reader = taps(x, offsets, ctx.geometry, Wanted(*ctx.needs_input_grad[:2]))
        for k in range(ctx.geometry.taps):
            reader.accumulate(reader.read(k), gradient[:, :, k].to(precision(x)))
        return *reader.gradients(), None


def _output(y: Tensor, i: int, geometry: Geometry, fold: bool) -> Tensor:
    """Output i of every window, ``[B, O, Ho, Wo]``: a view, made anew for each addition, since export allows no other."""
    return y[:, :, *geometry.slices(geometry.tap_indices[i])] if fold else y


def _grouped(value: Tensor, weight: Tensor) -> Tensor:
    """``[B, C, Ho, Wo]`` as ``[B, G, C/G, Ho, Wo]``, for a weight of G groups."""
    return value.unflatten(1, (weight.shape[1], -1))


def _total(values: Iterable[Tensor]) -> Tensor:
    return reduce(torch.add, values)
