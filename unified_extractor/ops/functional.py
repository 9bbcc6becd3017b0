"""The generalized unfold: check the call, choose a backend, run it.

B batch, C input channels, O output channels, G kernel groups, F offset groups, K = kh*kw taps (row-major), M terms, Ho, Wo output
positions.

    sample  x~[b,c,k,p] = x[b, c, stride*p - padding + dilation*t_k + offset[b,f(c),k,p]]        bilinear, zero outside
    gather  y[b,o,p]    = bias[o] + sum_k sum_c  S[o,c,k] * D[b,g(c),k,p] * x~[b,c,k,p]
    terms   y[b,o,p]    = bias[o] + sum_m sum_k sum_c  S_m[o,c,k] * D_m[b,g(c),k,p] * x~[b,c,k,p]
    fine    upsample s: window p of the output sits where window floor(p / s) of stride 1 sits
    channel D[b,g(c),k,p] * E[b,c,k] stands in the place of D[b,g(c),k,p], with a channel kernel E
    fold    z[b,c,i,p]  = sum_k D[b,g(c),i,k,p] * S[c,k] * x~[b,c,k,p],   y = bias + (z_i added where tap i of window p lies)
"""

from typing import Literal

from torch import Tensor

from unified_extractor.names import suggesting_arguments
from unified_extractor.ops import checks, dispatch
from unified_extractor.ops.autocast import autocast_dtype, lowered
from unified_extractor.ops.call import Call, Combine, similarity_call
from unified_extractor.ops.checks import DynamicKernel, Ints, Padding
from unified_extractor.ops.dispatch import KernelMemory


@suggesting_arguments
def generalized_unfold(
    x: Tensor,
    kernel_size: Ints,
    *,
    offsets: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    upsample: Ints = 1,
) -> Tensor:
    """Sample every tap of every window. Without offsets it is ``F.unfold`` with separate axes.

    Args:
        x: image ``[B, C, H, W]``.
        kernel_size: taps of the window, an int or (y, x).
        offsets: ``[B, F, K, 2, Ho, Wo]``, (y, x) in pixels, added to the regular grid; the last two axes may be 1.
            A position that is not finite or lies outside samples zero. May be float32 when ``x`` is half precision.
        stride: pixels between windows, an int or (y, x).
        padding: zeros around the image in pixels, an int or (y, x); "same": dilation*(k-1)//2 before and the remainder after.
        dilation: pixels between taps, an int or (y, x).
        upsample: windows at each place of the grid of stride 1, an int or (y, x); see :func:`extract`. Needs ``stride=1``.

    Returns:
        ``[B, C, K, Ho, Wo]`` in the dtype of ``x``, under autocast in that of autocast.

    Raises:
        ValueError, TypeError: wrong rank, size, dtype or an empty output; the message names the argument.

    Source: bilinear sampling as in deformable convolution (Dai et al., ICCV 2017).
    """
    numbers = (stride, padding, dilation)
    call = checks.call(x, kernel_size, None, None, offsets, None, *numbers, aggregation="unfold", upsample=upsample)
    return dispatch.run(call, None)


@suggesting_arguments
def extract(
    x: Tensor,
    *,
    kernel_size: Ints,
    static_kernel: Tensor | None = None,
    dynamic_kernel: DynamicKernel = None,
    channel_kernel: Tensor | None = None,
    offsets: Tensor | None = None,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    combine: Combine = "multiply",
    aggregation: Literal["gather", "fold"] = "gather",
    upsample: Ints = 1,
    kernel_memory: KernelMemory = "auto",
    backend: str | None = None,
) -> Tensor:
    """Apply the one operator: sample every window, weight its taps by a static and a dynamic kernel, aggregate.

    Args:
        x: image ``[B, C, H, W]``.
        kernel_size: taps of the window, an int or (y, x).
        static_kernel: S, ``[O, C/groups, kh, kw]``, the groups follow from the shape. None: the identity, O = C. With M terms it is
            ``[M, O, C/groups, kh, kw]`` beside a dynamic kernel ``[B, M, G, K, Ho, Wo]``, and a window's kernel is the sum of their
            products, term by term (gather, ``combine="multiply"``).
        dynamic_kernel: D, ``[B, G, K, Ho, Wo]`` for gather, ``[B, G, K, K, Ho, Wo]`` (output tap, source tap) for fold, used as
            given; channel c takes kernel c // (C/G). The last two axes may each be 1: one kernel for all positions. For gather the
            axis of the taps may be 1, too: a gate, one value for all taps. None: 1.
            With M terms a value for all taps mixes M whole convolutions, and another way at every position.
            A :class:`LinearKernel` or :class:`AttentionKernel` in its place is what the kernel is computed from.
        channel_kernel: E, ``[B, C, K]``, a second dynamic kernel: one for each channel and image, the axis of the taps may be 1. D*E stands
            in the place of D, in a fold ``D[i, k] * E[k]``, whatever ``combine`` is; without a dynamic kernel D is 1. The product is not
            stored.
        offsets: ``[B, F, K, 2, Ho, Wo]``, (y, x) in pixels; see :func:`generalized_unfold`.
        bias: ``[O]``.
        stride: pixels between windows, an int or (y, x). Gather shrinks the map by it, fold does not.
        padding: zeros around the image in pixels, an int or (y, x), or "same".
        dilation: pixels between taps, an int or (y, x).
        combine: "multiply" S*D, "add" S + D (needs O = C), "residual" S*(1 + D); the latter two need a static and a dynamic kernel.
        aggregation: "gather": one output a window. "fold": K outputs a window, added at the pixels its taps cover on the regular
            grid; takes S depthwise or none.
        upsample: s, an int or (y, x): the output is s times as fine as that of stride 1, and its window p sits where window
            floor(p / s) of that sits, with a dynamic kernel and offsets of its own. Needs ``stride=1`` and a gather.
        kernel_memory: for a dynamic kernel that is computed. "auto": the faster way. "store": the kernel is a tensor that autograd
            saves for backward. "recompute": the kernel is computed where it is used and again in backward, also where that is
            slower, so that autograd does not save it; the backends "compiled" and "triton" do so, except for a normalized kernel
            with ``combine="residual"``, for attention at offsets and beside a ``channel_kernel``.
        backend: None chooses; a name from :func:`unified_extractor.backends` demands that one.

    x, kernels and bias share one dtype, offsets may be float32 when that is half precision. Under autocast all of them are
    cast to the autocast dtype, as in convolution.

    Returns:
        ``[B, O, Ho, Wo]`` for gather, ``[B, C, H, W]`` for fold.

    Raises:
        ValueError, TypeError: wrong rank, size, dtype, device, name or combination; the message names the argument.

    The equation and its special cases are in ``paper_notes.md``.
    """
    if kernel_memory != "auto":
        checks.one_of("kernel_memory", kernel_memory, dispatch.KERNEL_MEMORY)
    call = checks.call(
        x,
        kernel_size,
        static_kernel,
        dynamic_kernel,
        offsets,
        bias,
        stride,
        padding,
        dilation,
        combine,
        aggregation,
        upsample,
        channel_kernel,
    )
    return dispatch.run(call, backend, kernel_memory)


@suggesting_arguments
def similarity(
    query: Tensor,
    key: Tensor,
    kernel_size: Ints,
    *,
    heads: int,
    offsets: Tensor | None = None,
    stride: Ints = 1,
    dilation: Ints = 1,
    backend: str | None = None,
) -> Tensor:
    """Compute the query-key products inside every window, from which attention makes its dynamic kernel. Padding is "same".

    Args:
        query: one for each window, ``[B, E, Ho, Wo]``.
        key: image ``[B, E, H, W]``, sampled at the taps like ``x`` in :func:`generalized_unfold`.
        kernel_size: taps of the window, an int or (y, x).
        heads: G, contiguous channel groups over which products are summed; offset groups must divide it.
        offsets: ``[B, F, K, 2, Ho, Wo]``; see :func:`generalized_unfold`.
        stride: pixels between windows, an int or (y, x).
        dilation: pixels between taps, an int or (y, x).
        backend: None chooses; a name demands that one.

    Returns:
        ``[B, G, K, Ho, Wo]``: ``sum_{e in g} query[b,e,p] * key~[b,e,k,p]``, 0 for a tap that samples nothing.

    Raises:
        ValueError, TypeError: as :func:`extract`.

    Source: Ramachandran et al., Stand-Alone Self-Attention in Vision Models (NeurIPS 2019).
    """
    lower = autocast_dtype(key)
    query, key = lowered(query, lower), lowered(key, lower)
    geometry = checks.geometry(key, kernel_size, stride, "same", dilation, name="key")
    checks.similarity(query, key, heads, offsets, geometry)
    call: Call = similarity_call(query, key, heads, offsets, geometry)
    return dispatch.run(call, backend)
