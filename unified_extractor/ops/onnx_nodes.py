"""Calls that ONNX has a node of its own for: a gather of a static kernel at offsets is its ``DeformConv``.

B batch, C input channels, O outputs, F offset groups, K taps, Ho, Wo output positions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from unified_extractor.ops.call import Call

_OPSET = 19  # the first with DeformConv
_requested = ContextVar("requested", default=False)


@contextmanager
def deform_conv_nodes() -> Iterator[None]:
    """Let ``torch.onnx.export(..., dynamo=True, opset_version=19)`` write the node ``DeformConv`` for deformable convolutions.

    This concerns layers with a static kernel and learned offsets: without a dynamic kernel (deformable convolution v1), or with one whose
    groups are those of the offsets (v2), multiplied. Other layers, and all layers without this context, are composed of common nodes.
    ONNX has the node from opset 19 on; a file of an older one would not be valid.

    Raises:
        ValueError: the older exporter, ``dynamo=False``, meets such a layer.
    """
    token = _requested.set(True)
    try:
        yield
    finally:
        _requested.reset(token)


def is_deform_conv(call: Call) -> bool:
    """Return whether an exporter to ONNX records this call that is to be the node ``DeformConv``."""
    return _requested.get() and torch.onnx.is_in_onnx_export() and _fits(call)


def _fits(call: Call) -> bool:
    """Return whether the node computes a call: what it multiplies samples by has the groups of the offsets, and all have one dtype."""
    if call.offsets is None or call.static_kernel is None or call.terms or call.has_gate:
        return False
    if call.aggregation != "gather" or call.combine != "multiply" or call.offsets.dtype != call.x.dtype:
        return False
    return call.dynamic_kernel is None or (call.stored_kernel is not None and call.kernel_groups == call.offsets.shape[1])


def deform_conv(call: Call) -> Tensor:
    """Return the output ``[B, O, Ho, Wo]`` of a call as the node, whose values only ONNX computes."""
    if torch.jit.is_tracing():
        raise ValueError("deform_conv_nodes() needs torch.onnx.export(dynamo=True), got dynamo=False")
    x, static_kernel, offsets, geometry = call.x, call.static_kernel, call.offsets, call.geometry
    assert static_kernel is not None
    assert offsets is not None
    field = _at_every_position(offsets, call).flatten(1, 3)
    mask = None if call.stored_kernel is None else _at_every_position(call.stored_kernel, call).flatten(1, 2)
    sizes: dict[str, Any] = {
        "kernel_shape": geometry.kernel_size,
        "strides": geometry.stride,
        "dilations": geometry.dilation,
        "pads": (*geometry.padding, *geometry.padding_after),
        "group": x.shape[1] // static_kernel.shape[1],
        "offset_group": offsets.shape[1],
    }
    tensors = (x, static_kernel, field, call.bias, mask)
    return torch.onnx.ops.symbolic("DeformConv", tensors, sizes, dtype=x.dtype, shape=call.output_shape(), version=_OPSET)


def _at_every_position(values: Tensor, call: Call) -> Tensor:
    """Return ``[B, ..., Ho, Wo]`` of values that may be one for all positions, ``[B, ..., 1, 1]``."""
    output = call.geometry.output
    return values if values.shape[-2:] == output else values.expand(*values.shape[:-2], *output)
