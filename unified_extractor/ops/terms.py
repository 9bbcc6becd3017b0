"""Kernels that are sums of several terms, by calls of one term.

B batch, C input channels, O output channels, G kernel groups, K taps, M terms, Ho, Wo output positions.
"""

from collections.abc import Callable
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from unified_extractor.ops.call import Call
from unified_extractor.ops.geometry import padded, precision
from unified_extractor.ops.tracing import needs_plain_operations

Run = Callable[[Call], Tensor]
"""A backend's operator for calls of one term."""


def sum_of_terms(call: Call, run: Run) -> Tensor:
    """Return the output of a call with several terms, without its bias.

    Dynamic kernels of the whole image mix the static kernels before these meet the image. Any others are summed term by term, which
    stores neither the samples of all taps nor a kernel of every channel at every position; a recorded program has the former anyway.
    """
    assert call.stored_kernel is not None
    of_image, is_depthwise = call.stored_kernel.shape[-2:] == (1, 1), not call.has_dense_kernel
    if of_image and call.offsets is None and call.x.shape[0] > 0 and not needs_plain_operations():
        return _convolved_by_image(call)
    if is_depthwise and (of_image or needs_plain_operations()):
        return run(call._replace(static_kernel=None, dynamic_kernel=_mixed_depthwise(call), bias=None))
    dtype = precision(call.x)
    return reduce(torch.add, (run(term).to(dtype) for term in _terms(call))).to(call.x.dtype)


def _terms(call: Call) -> list[Call]:
    """Return the calls of the single terms, without bias."""
    assert call.static_kernel is not None
    assert call.stored_kernel is not None
    pairs = zip(call.static_kernel.unbind(0), call.stored_kernel.unbind(1), strict=True)
    return [call._replace(static_kernel=static, dynamic_kernel=dynamic, bias=None) for static, dynamic in pairs]


def _convolved_by_image(call: Call) -> Tensor:
    """Mix one kernel an image, and run one convolution in which the images are groups.

    Source: Yang et al., CondConv (NeurIPS 2019).
    """
    x, geometry, mixed = padded(call.x, call.geometry), call.geometry, _mixed_kernels(call)
    groups = call.channels // mixed.shape[2]
    y = F.conv2d(
        x.flatten(0, 1).unsqueeze(0), mixed.flatten(0, 1), None, geometry.stride, 0, geometry.dilation, x.shape[0] * groups
    )
    return y.view(x.shape[0], -1, *geometry.output)


def _mixed_kernels(call: Call) -> Tensor:
    """Return the kernel of every image ``[B, O, C/groups, kh, kw]``, by dynamic kernels of the whole image."""
    x, static, dynamic = call.x, call.static_kernel, call.stored_kernel
    assert static is not None
    assert dynamic is not None
    groups, dtype = call.channels // static.shape[2], precision(x)
    if dynamic.shape[2] > 1:
        dynamic = dynamic.repeat_interleave(call.channels // dynamic.shape[2], 2).unflatten(2, (groups, -1))
    else:
        dynamic = dynamic.unsqueeze(2)
    by_group = static.flatten(3).unflatten(1, (groups, -1)).to(dtype)  # [M, groups, O/groups, C/groups, K]
    mixed = torch.einsum("mjonk,bmjnk->bjonk", by_group, dynamic[..., 0, 0].to(dtype))
    return mixed.flatten(1, 2).unflatten(3, call.geometry.kernel_size).to(x.dtype)


def _mixed_depthwise(call: Call) -> Tensor:
    """Return the kernel of every channel ``[B, C, K, Ho, Wo]``, the sum of the terms' products."""
    static, dynamic = call.static_kernel, call.stored_kernel
    assert static is not None
    assert dynamic is not None
    by_group = static.flatten(2).unflatten(1, (dynamic.shape[2], -1)).to(precision(call.x))  # [M, G, C/G, K]
    return torch.einsum("mgnk,bmgkhw->bgnkhw", by_group, dynamic.to(by_group.dtype)).flatten(1, 2).to(call.x.dtype)
