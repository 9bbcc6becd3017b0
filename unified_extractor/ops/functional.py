"""The generalized unfold: check the call, choose a backend, run it.

B batch, C input channels, O output channels, G kernel groups, F offset groups, K = kh*kw taps (row-major), Ho, Wo output positions.

    sample  x~[b,c,k,p] = x[b, c, stride*p - padding + dilation*t_k + offset[b,f(c),k,p]]        bilinear, zero outside
    gather  y[b,o,p]    = bias[o] + sum_k sum_c S[o,c,k] * D[b,g(c),k,p] * x~[b,c,k,p]
    fold    z[b,c,i,p]  = sum_k D[b,g(c),i,k,p] * S[c,k] * x~[b,c,k,p],   y = bias + (z_i added where tap i of window p lies)
"""

import sys
from typing import Any, Literal

import torch
from torch import Tensor

from unified_extractor.ops import checks, dispatch
from unified_extractor.ops.autocast import autocasts, full_precision
from unified_extractor.ops.checks import Ints, Padding
from unified_extractor.ops.custom_ops import Call
from unified_extractor.ops.dynamic_kernels import KernelGenerator, generated_kernel
from unified_extractor.ops.geometry import Geometry


def generalized_unfold(
    x: Tensor,
    kernel_size: Ints,
    *,
    offsets: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
) -> Tensor:
    """What every tap of every window reads. Without offsets it is ``F.unfold`` with separate axes.

    Args:
        x: image ``[B, C, H, W]``.
        kernel_size: taps of the window, an int or (y, x).
        offsets: displacements ``[B, F, K, 2, Ho, Wo]``, (y, x) in pixels, added to the regular grid; the last two axes may be 1.
            A position that is not finite or lies outside reads zero. May be float32 when ``x`` is half precision.
        stride: pixels between windows, an int or (y, x).
        padding: zeros around the image in pixels, an int or (y, x); "same": dilation*(k-1)//2 before and the remainder after.
        dilation: pixels between taps, an int or (y, x).

    Returns:
        ``[B, C, K, Ho, Wo]`` in the dtype of ``x``, under autocast in that of autocast.

    Raises:
        ValueError, TypeError: wrong rank, size, dtype or an empty output; the message names the argument.

    Source: bilinear sampling as in deformable convolution (Dai et al., ICCV 2017).
    """
    geometry = checks.geometry(x, kernel_size, stride, padding, dilation)
    (x,) = _autocast(x)
    if offsets is not None:
        checks.moved(x, offsets, geometry)
    implementation = dispatch.choose(None, x, _work(geometry, offsets, x.shape[1]))
    with full_precision(x):
        return implementation.generalized_unfold(x, offsets, geometry)


def extract(
    x: Tensor,
    *,
    kernel_size: Ints,
    static_kernel: Tensor | None = None,
    dynamic_kernel: Tensor | None = None,
    offsets: Tensor | None = None,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    combine: Literal["multiply", "add", "residual"] = "multiply",
    aggregation: Literal["gather", "fold"] = "gather",
    backend: str | None = None,
) -> Tensor:
    """The one operator: sample every window, weigh its taps by a static and a dynamic kernel, aggregate.

    Args:
        x: image ``[B, C, H, W]``.
        kernel_size: taps of the window, an int or (y, x).
        static_kernel: S, ``[O, C/groups, kh, kw]``, the groups follow from the shape. None: the identity, O = C.
        dynamic_kernel: D, ``[B, G, K, Ho, Wo]`` for gather, ``[B, G, K, K, Ho, Wo]`` (output tap, source tap) for fold, used as
            given; channel c takes kernel c // (C/G). The last two axes may each be 1: one kernel for all positions. None: 1.
        offsets: displacements ``[B, F, K, 2, Ho, Wo]``, (y, x) in pixels; see :func:`generalized_unfold`.
        bias: ``[O]``.
        stride: pixels between windows, an int or (y, x). Gather shrinks the map by it, fold does not.
        padding: zeros around the image in pixels, an int or (y, x), or "same".
        dilation: pixels between taps, an int or (y, x).
        combine: "multiply" S*D, "add" S + D (needs O = C), "residual" S*(1 + D); the latter two need both kernels.
        aggregation: "gather": one output a window. "fold": K outputs a window, added at the pixels its taps cover on the regular
            grid; takes S depthwise or none.
        backend: None chooses; a name from :func:`unified_extractor.backends` demands that one.

    x, kernels and bias share one dtype, offsets may be float32 when that is half precision. Under autocast all of them are
    brought to the autocast dtype, as convolution does.

    Returns:
        ``[B, O, Ho, Wo]`` for gather, ``[B, C, H, W]`` for fold.

    Raises:
        ValueError, TypeError: wrong rank, size, dtype, device, name or combination; the message names the argument.

    Source: DESIGN of this package; the equation and its special cases are in ``paper_notes.md``.
    """
    geometry = checks.geometry(x, kernel_size, stride, padding, dilation)
    x, static_kernel, dynamic_kernel, bias = _autocast(x, static_kernel, dynamic_kernel, bias)
    checks.extract(x, static_kernel, dynamic_kernel, offsets, bias, geometry, combine, aggregation)
    implementation = _implementation(Call(x, static_kernel, dynamic_kernel, offsets, geometry, aggregation, combine), backend)
    with full_precision(x):
        return implementation.extract(x, static_kernel, dynamic_kernel, offsets, bias, geometry, combine, aggregation)


def generate_and_extract(
    x: Tensor,
    feature: Tensor,
    *,
    kernel_size: Ints,
    head_weight: Tensor,
    head_bias: Tensor | None = None,
    scale: float = 1.0,
    normalization: Literal["none", "softmax", "sigmoid"] = "none",
    static_kernel: Tensor | None = None,
    offsets: Tensor | None = None,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    combine: Literal["multiply", "add", "residual"] = "multiply",
    aggregation: Literal["gather", "fold"] = "gather",
    fused: bool | None = None,
    backend: str | None = None,
) -> Tensor:
    """:func:`extract` with the dynamic kernel ``D = normalized(scale * (head_weight @ feature + head_bias))``, never stored.

    Each part of the kernel is made where it is used, and made again in backward: autograd keeps ``feature`` instead of a kernel
    that for involution has three times as many values as the image. Values and gradients are those of making it first.

    Args:
        x: image ``[B, C, H, W]``.
        feature: what the kernel is generated from at every output position, ``[B, R, Ho, Wo]``.
        head_weight: ``[G*K, R]``, of a fold ``[G*K*K, R]`` (output tap before source tap): a 1x1 convolution's, flattened.
        head_bias: ``[G*K]``, of a fold ``[G*K*K]``.
        scale: what the values are multiplied by before they are normalized.
        normalization: "none", "sigmoid", or "softmax" over the taps, of a fold over the source taps.
        kernel_size, static_kernel, offsets, bias, stride, padding, dilation, combine, aggregation, backend: as in :func:`extract`.
        fused: None: where that is faster than storing the kernel. True: also where it is slower, so that autograd does not keep the
            kernel (the peak of a single layer may be higher). False: never. The backends "compiled" and "triton" do it; others, and
            a normalized kernel with ``combine="residual"``, store it.

    Returns:
        ``[B, O, Ho, Wo]`` for gather, ``[B, C, H, W]`` for fold.

    Raises:
        ValueError, TypeError: as :func:`extract`; ``fused=True`` with a backend, named, that does not.

    Source: ``paper_notes.md``; recomputing in backward as Dao et al., FlashAttention (NeurIPS 2022).
    """
    geometry = checks.geometry(x, kernel_size, stride, padding, dilation)
    x, feature, weight, static_kernel, head_bias, bias = _autocast(x, feature, head_weight, static_kernel, head_bias, bias)
    generator = KernelGenerator(feature, weight, head_bias, scale, normalization)
    checks.extract(x, static_kernel, generator, offsets, bias, geometry, combine, aggregation)
    _check_fused(fused, backend)
    call = Call(x, static_kernel, None, offsets, geometry, aggregation, combine, generator=generator)
    return _generated(call, bias, fused, backend)


def fuses(call: Call, fused: bool | None, backend: str | None = None) -> bool:
    """Whether :func:`generate_and_extract` makes this call's kernel where it is used; arguments of these names as there."""
    return _makes_on_the_way(_implementation(call, backend, fused), call, fused)


def _makes_on_the_way(implementation: Any, call: Call, fused: bool | None) -> bool:
    assert call.generator is not None
    generates = getattr(implementation, "generates", None)
    plain = call.generator.normalization == "none" and abs(call.generator.scale) * torch.finfo(call.x.dtype).max > 1
    fits = call.combine != "residual" or plain  # one more in the bias: what is normalized, or scaled to nothing, has no such bias
    return generates is not None and fits and fused is not False and (fused or generates(call))


def attend(
    value: Tensor,
    query: Tensor,
    key: Tensor,
    kernel_size: Ints,
    *,
    heads: int,
    position: Tensor | None = None,
    normalization: Literal["none", "softmax", "sigmoid"] = "softmax",
    static_kernel: Tensor | None = None,
    bias: Tensor | None = None,
    stride: Ints = 1,
    dilation: Ints = 1,
    combine: Literal["multiply", "add", "residual"] = "multiply",
    fused: bool | None = None,
    backend: str | None = None,
) -> Tensor:
    """Local attention: :func:`extract` with the dynamic kernel ``D = normalized(query . key + position)``, which is never stored.

    As in :func:`generate_and_extract`, each part of the kernel is made where it is used, and made again in backward. Padding is
    "same"; a softmax takes only taps inside the image.

    Args:
        value: image ``[B, C, H, W]``.
        query: one a window, ``[B, E, Ho, Wo]``, scaled already.
        key: image ``[B, E, H, W]``.
        heads: G, contiguous channel groups of all three; divides C and E.
        position: what each tap of a head adds, ``[G, kh, kw]``; may be float32 beside half precision.
        normalization: "softmax" or "sigmoid" of the products, or as they are.
        kernel_size, static_kernel, bias, stride, dilation, combine, backend: as in :func:`extract`.
        fused: as in :func:`generate_and_extract`.

    Returns:
        ``[B, O, Ho, Wo]``.

    Raises:
        ValueError, TypeError: as :func:`extract`; ``fused=True`` with a backend, named, that stores the kernel.

    Source: Ramachandran et al., Stand-Alone Self-Attention in Vision Models (NeurIPS 2019).
    """
    checks.tensor("value", value, "[B, C, H, W]")
    geometry = checks.geometry(value, kernel_size, stride, "same", dilation)
    value, query, key, static_kernel, bias = _autocast(value, query, key, static_kernel, bias)
    checks.attention(value, query, key, position, heads, normalization, geometry)
    generator = KernelGenerator(query, key, None if position is None else position.flatten(), 1.0, normalization, heads)
    checks.extract(value, static_kernel, generator, None, bias, geometry, combine, "gather")
    _check_fused(fused, backend)
    call = Call(value, static_kernel, None, None, geometry, "gather", combine, generator=generator)
    return _generated(call, bias, fused, backend)


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
    """Query-key products inside every window: the values from which attention makes its dynamic kernel. Padding is "same".

    Args:
        query: one a window, ``[B, C, Ho, Wo]``.
        key: image ``[B, C, H, W]``, read at the taps like ``x`` in :func:`generalized_unfold`.
        kernel_size, offsets, stride, dilation: as in :func:`generalized_unfold`.
        heads: G, contiguous channel groups over which products are summed; offset groups must divide it.
        backend: as in :func:`extract`.

    Returns:
        ``[B, G, K, Ho, Wo]``: ``sum_{c in g} query[b,c,p] * key~[b,c,k,p]``, 0 for a tap that reads nothing.

    Raises:
        ValueError, TypeError: as :func:`extract`.

    Source: Ramachandran et al., Stand-Alone Self-Attention in Vision Models (NeurIPS 2019).
    """
    geometry = checks.geometry(key, kernel_size, stride, "same", dilation)
    key, query = _autocast(key, query)
    checks.companion("query", query, "[B, C, Ho, Wo]", key)
    if query.shape != (*key.shape[:2], *geometry.output):
        raise ValueError(f"query must have shape {[*key.shape[:2], *geometry.output]}, got {list(query.shape)}")
    if heads < 1 or key.shape[1] % heads:
        raise ValueError(f"heads must divide the channels of key, got heads={heads}, channels={key.shape[1]}")
    if offsets is not None:
        checks.moved(key, offsets, geometry)
        if heads % offsets.shape[1]:
            raise ValueError(f"offsets has F={offsets.shape[1]} groups, which must divide heads={heads}")
    implementation = dispatch.choose(backend, key, _work(geometry, offsets, key.shape[1] // heads))
    with full_precision(key):
        return implementation.similarity(query, key, offsets, heads, geometry)


def _check_fused(fused: bool | None, backend: str | None) -> None:
    checks.fused(fused)
    if fused and backend in ("reference", "eager"):
        raise ValueError(
            f"fused=True needs a backend that does not store the kernel, 'compiled' or 'triton', got backend={backend!r}"
        )


def _generated(call: Call, bias: Tensor | None, fused: bool | None, backend: str | None) -> Tensor:
    """The output of a call with what makes its kernel, on the way or before."""
    assert call.generator is not None
    implementation = _implementation(call, backend, fused)
    dynamic: KernelGenerator | Tensor = call.generator
    with full_precision(call.x):
        if not _makes_on_the_way(implementation, call, fused):
            dynamic = generated_kernel(call.generator, call.geometry, call.aggregation, implementation.similarity)
        options = (call.offsets, bias, call.geometry, call.combine, call.aggregation)
        y: Tensor = implementation.extract(call.x, call.static, dynamic, *options)
    return y


def _implementation(call: Call, backend: str | None, fused: bool | None = None) -> Any:
    """The backend that runs a call, named or chosen; ``fused``: one that does not store a generated kernel, if any is usable."""
    x, static, results = call.x, call.static, call.geometry.taps if call.aggregation == "fold" else 1
    made = call.dynamic is not None or call.generator is not None
    if not made and call.offsets is None and call.aggregation == "gather":
        return dispatch.choose(backend, x, 0)  # any backend calls torch's convolution
    shared = x.shape[1] // call.dynamic_shape()[1] if made else x.shape[1]
    if static is not None and static.shape[:2] != (x.shape[1], 1):
        shared = min(shared, static.shape[1])
    return dispatch.choose(backend, x, sys.maxsize if fused else _work(call.geometry, call.offsets, shared, results))


def _work(geometry: Geometry, offsets: Tensor | None, shared: int, results: int = 1) -> int:
    """How much there is to do for what is brought into registers at once: multiply-adds at one position for at most 16 channels.

    Args:
        window: the geometry of the call.
        offsets: as given; reading between pixels counts a hundredfold.
        shared: channels that share a kernel.
        results: outputs of a window.
    """
    return results * geometry.taps * min(shared, 16) * (1 if offsets is None else 100)


def _autocast(x: Tensor, *others: Any) -> tuple[Any, ...]:
    """The tensors in autocast's dtype where autocast is on; anything else, and double precision, as it is."""
    if not autocasts(x):
        return (x, *others)
    dtype = torch.get_autocast_dtype(x.device.type)
    lower = (torch.float32, *checks.HALF)
    return tuple(t.to(dtype) if isinstance(t, Tensor) and t.dtype in lower else t for t in (x, *others))
