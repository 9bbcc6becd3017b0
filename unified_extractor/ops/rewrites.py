"""Calls that any backend leaves to simpler ones: plain convolution to torch, sums of terms to calls of one, sums of two kernels to two
calls, a gate to a product, a bias to an addition, a computed kernel to a stored one."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from unified_extractor.ops.call import Call, similarity_call
from unified_extractor.ops.dynamic_kernels import ComputedKernel, LinearKernel, attention_kernel, linear_kernel, plus_one
from unified_extractor.ops.geometry import padded
from unified_extractor.ops.terms import sum_of_terms
from unified_extractor.ops.upsampling import run_distinct

Aggregate = Callable[[Call], Tensor]
"""A backend's operator: a call without bias, with a ``combine`` that the backend does not leave to others."""


def is_convolution(call: Call) -> bool:
    """Return whether a call is a convolution (or a window sum), which torch runs best."""
    return call.aggregation == "gather" and call.offsets is None and call.dynamic_kernel is None and call.channel_kernel is None


def run_rewritten(
    call: Call, aggregate: Aggregate, *, combines_depthwise: bool = False, sums_depthwise_terms: bool = False
) -> Tensor:
    """Run a call by a backend's operator and what is left to others.

    Args:
        call: the call.
        aggregate: the backend's operator for ``combine="multiply"``.
        combines_depthwise: whether ``aggregate`` takes every ``combine`` with a depthwise static kernel.
        sums_depthwise_terms: whether ``aggregate`` takes several terms, whose static kernels are depthwise.
    """
    if is_convolution(call):
        return _convolution(call)
    if call.terms:
        fused = sums_depthwise_terms and not call.has_dense_kernel
        one_term = partial(run_rewritten, aggregate=aggregate, combines_depthwise=combines_depthwise)
        return _plus_bias(aggregate(call._replace(bias=None)) if fused else sum_of_terms(call, one_term), call.bias)
    if call.has_gate:
        return _gated(call, lambda simpler: run_rewritten(simpler, aggregate, combines_depthwise=combines_depthwise))
    combined = combines_depthwise and not call.has_dense_kernel
    if call.combine == "add" and not combined:
        static_part, dynamic_part = call.summands()
        return run_rewritten(static_part, aggregate) + aggregate(dynamic_part)
    if call.combine == "residual" and not combined:
        call = call._replace(dynamic_kernel=_one_more(call), combine="multiply")
    if call.bias is None:
        return aggregate(call)
    return _plus_bias(aggregate(call._replace(bias=None)), call.bias)


def _plus_bias(y: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``[B, O, Ho, Wo]`` with a constant added to every output channel."""
    return y if bias is None else y + bias[:, None, None]


def _gated(call: Call, run: Aggregate) -> Tensor:
    """Run a call whose dynamic kernel has one value a window: it multiplies what the window gives without it, ``run``'s result."""
    gate, static_kernel, bias = call.dynamic_kernel, call.static_kernel, call.bias
    assert isinstance(gate, Tensor)
    convolution_groups = call.channels if static_kernel is None else call.channels // static_kernel.shape[1]
    if convolution_groups % gate.shape[1]:  # an output sums over channels of several gates
        return run(call._replace(dynamic_kernel=gate.expand(-1, -1, call.geometry.taps, -1, -1)))
    without_bias = call._replace(bias=None)
    if call.combine == "add":
        static_part, dynamic_part = without_bias.summands()
        return _plus_bias(run(static_part) + _times(run(dynamic_part._replace(dynamic_kernel=None)), gate), bias)
    factor = 1 + gate if call.combine == "residual" else gate
    return _plus_bias(_times(run(without_bias._replace(dynamic_kernel=None, combine="multiply")), factor), bias)


def _times(y: Tensor, gate: Tensor) -> Tensor:
    """Return ``[B, O, Ho, Wo]`` times a gate ``[B, G, 1, Ho, Wo]`` whose groups are neighboring channels."""
    return (y.unflatten(1, (gate.shape[1], y.shape[1] // gate.shape[1])) * gate).flatten(1, 2)


def _one_more(call: Call) -> Tensor | ComputedKernel:
    """Return one plus the dynamic kernel: ``S * (1 + D)`` is a product again."""
    kernel = call.dynamic_kernel
    assert kernel is not None
    return 1 + kernel if isinstance(kernel, Tensor) else plus_one(kernel, call.geometry)


def _convolution(call: Call) -> Tensor:
    """Run torch's own convolution; a plain window sum is one with ones."""
    x, static_kernel, geometry = call.x, call.static_kernel, call.geometry
    if geometry.upsample != (1, 1):  # without kernels of their own all windows of a place give the same
        return run_distinct(call, _convolution)
    if static_kernel is None:
        static_kernel = x.new_ones(x.shape[1], 1, *geometry.kernel_size)
    padding = geometry.padding
    if geometry.padding_after != padding:
        x, padding = padded(x, geometry), (0, 0)
    groups = x.shape[1] // static_kernel.shape[1]
    return F.conv2d(x, static_kernel, call.bias, geometry.stride, padding, geometry.dilation, groups)


def with_stored_kernel(call: Call, run: Callable[[Call], Tensor]) -> Call:
    """Compute the dynamic kernel of a call, and return the call that has it as a tensor; ``run`` computes query-key products."""
    kernel, geometry = call.computed_kernel, call.geometry
    assert kernel is not None
    if isinstance(kernel, LinearKernel):
        return call._replace(dynamic_kernel=linear_kernel(kernel, geometry, call.aggregation))

    def similarity(query: Tensor, key: Tensor, heads: int) -> Tensor:
        return run(similarity_call(query, key, heads, call.offsets, geometry))

    return call._replace(dynamic_kernel=attention_kernel(kernel, geometry, call.offsets, similarity))
