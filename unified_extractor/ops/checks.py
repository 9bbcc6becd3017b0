"""The door: every error about shapes, sizes, dtypes and devices, in the user's own argument names, and the Call that follows.

B batch, C input channels, O output channels, G kernel groups, F offset groups, K taps, M terms, Ho, Wo output positions.
"""

from math import inf
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from unified_extractor.names import did_you_mean
from unified_extractor.ops.autocast import autocast_dtype, lowered
from unified_extractor.ops.call import Aggregation, Call, Combine
from unified_extractor.ops.dynamic_kernels import NORMALIZATIONS, AttentionKernel, LinearKernel
from unified_extractor.ops.geometry import Geometry

Ints = int | tuple[int, int]
Padding = Ints | Literal["same"]
DynamicKernel = Tensor | LinearKernel | AttentionKernel | None

HALF = (torch.float16, torch.bfloat16)
FLOATS = (*HALF, torch.float32, torch.float64)
_AGGREGATIONS = ("gather", "fold")

_CHECKED: dict[Any, Geometry] = {}
"""The geometries of calls that passed the checks, by all that these look at: such a call is checked once."""
_MOST_CHECKED = 4096


def call(
    x: Tensor,
    kernel_size: Ints,
    static_kernel: Tensor | None,
    dynamic_kernel: DynamicKernel,
    offsets: Tensor | None,
    bias: Tensor | None,
    stride: Ints,
    padding: Padding,
    dilation: Ints,
    combine: Combine = "multiply",
    aggregation: Aggregation = "gather",
    upsample: Ints = 1,
    channel_kernel: Tensor | None = None,
) -> Call:
    """Check the arguments of :func:`unified_extractor.extract` and build the call, its tensors in autocast's dtype where that is on.

    Raises ``TypeError`` or ``ValueError``.
    """
    lower = autocast_dtype(x)
    if lower is not None:
        x, static_kernel, bias, channel_kernel = (lowered(value, lower) for value in (x, static_kernel, bias, channel_kernel))
        dynamic_kernel = _lowered_kernel(dynamic_kernel, lower)
    numbers = (kernel_size, stride, padding, dilation, upsample)
    tensors = (static_kernel, dynamic_kernel, offsets, bias, channel_kernel)
    key, checked = _signature(x, numbers, tensors, combine, aggregation), None
    if key is not None:
        try:
            checked = _CHECKED.get(key)
        except TypeError:  # a value that cannot be hashed: a symbolic size, or a mistake
            key = None
    if checked is None:
        checked = geometry(x, *numbers)
        if aggregation != "unfold":
            _operator(x, *tensors, checked, combine, aggregation)
        elif offsets is not None:
            check_offsets(x, offsets, checked)
        if key is not None:
            if len(_CHECKED) >= _MOST_CHECKED:
                _CHECKED.clear()
            _CHECKED[key] = checked
    return Call(x, static_kernel, dynamic_kernel, offsets, bias, checked, aggregation, combine, channel_kernel)


def _signature(x: Any, numbers: tuple[Any, ...], tensors: tuple[Any, ...], combine: Any, aggregation: Any) -> Any:
    """Return all that the checks look at, or None where it cannot be a key: while a program is traced, or for numbers that equal ints."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not isinstance(x, Tensor):
        return None
    for number in numbers:
        kind = type(number)
        if kind is tuple:
            if not all(type(part) is int for part in number):
                return None
        elif kind is not int and kind is not str:
            return None
    return (x.shape, x.dtype, x.device, numbers, combine, aggregation, *map(_of, tensors))


def _of(value: Any) -> Any:
    """Return what the checks look at in one argument."""
    if value is None:
        return None
    if isinstance(value, Tensor):
        return (value.shape, value.dtype, value.device)
    if isinstance(value, LinearKernel | AttentionKernel):
        return (type(value), *((_of(part), type(part)) for part in value))
    return value


def _lowered_kernel(kernel: Any, dtype: torch.dtype) -> Any:
    """Return a dynamic kernel in autocast's dtype; the position of attention stays, since it may be float32."""
    if isinstance(kernel, LinearKernel):
        return kernel._replace(**{name: lowered(getattr(kernel, name), dtype) for name in ("feature", "weight", "bias")})
    if isinstance(kernel, AttentionKernel):
        return kernel._replace(query=lowered(kernel.query, dtype), key=lowered(kernel.key, dtype))
    return lowered(kernel, dtype)


def geometry(
    x: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, upsample: Any = 1, *, name: str = "x"
) -> Geometry:
    """Check an image and the numbers of its windows, and return the sizes. Raises ``TypeError`` or ``ValueError``."""
    tensor(name, x, "[B, C, H, W]")
    if x.dtype not in FLOATS:
        raise TypeError(f"{name} must have one of the floating point dtypes {', '.join(map(str, FLOATS))}, got {x.dtype}")
    if min(x.shape[1:]) < 1:
        raise ValueError(f"{name} must have at least one channel, row and column, got shape {tuple(x.shape)}")
    kernel_size, dilation = pair("kernel_size", kernel_size, 1), pair("dilation", dilation, 1)
    reach = (dilation[0] * (kernel_size[0] - 1), dilation[1] * (kernel_size[1] - 1))
    stride, upsample = pair("stride", stride, 1), pair("upsample", upsample, 1)
    if upsample != (1, 1) and stride != (1, 1):
        raise ValueError(f"upsample needs stride=1, got upsample={upsample}, stride={stride}")
    if isinstance(padding, str):
        one_of("padding", padding, ("same",))
        before = (reach[0] // 2, reach[1] // 2)
        after = (reach[0] - before[0], reach[1] - before[1])
    else:
        before = pair("padding", padding, 0, or_else=" or 'same'")
        after = before
    height, width = x.shape[2:]
    output = (
        (height + before[0] + after[0] - reach[0] - 1) // stride[0] + 1,
        (width + before[1] + after[1] - reach[1] - 1) // stride[1] + 1,
    )
    if output[0] < 1 or output[1] < 1:
        raise ValueError(
            f"the output is empty: kernel_size={kernel_size} at dilation={dilation} and padding={padding} does not fit into "
            f"{name} of height {height} and width {width}"
        )
    output = (output[0] * upsample[0], output[1] * upsample[1])
    return Geometry(kernel_size, stride, before, after, dilation, (height, width), output, upsample)


def _operator(
    x: Tensor,
    static_kernel: Any,
    dynamic_kernel: Any,
    offsets: Any,
    bias: Any,
    channel_kernel: Any,
    geometry: Geometry,
    combine: Any,
    aggregation: Any,
) -> None:
    """Check kernels, offsets and the names of :func:`unified_extractor.extract` against the image and each other."""
    one_of("combine", combine, get_args(Combine))
    one_of("aggregation", aggregation, _AGGREGATIONS)
    if geometry.upsample != (1, 1) and aggregation != "gather":
        raise ValueError(f"upsample needs aggregation='gather', got upsample={geometry.upsample}, aggregation={aggregation!r}")
    channels = x.shape[1]
    out_channels = channels
    if static_kernel is not None:
        _static(x, static_kernel, geometry)
        out_channels = static_kernel.shape[-4]
        if static_kernel.dim() == 5:
            _check_terms(static_kernel, dynamic_kernel, combine, aggregation)
    if isinstance(dynamic_kernel, LinearKernel):
        _linear(x, dynamic_kernel, geometry, aggregation)
    elif isinstance(dynamic_kernel, AttentionKernel):
        _attention(x, dynamic_kernel, offsets, geometry, aggregation)
    elif dynamic_kernel is not None:
        _dynamic(x, dynamic_kernel, geometry, aggregation, terms=static_kernel is not None and static_kernel.dim() == 5)
    if channel_kernel is not None:
        _channel_kernel(x, channel_kernel, geometry)
    if offsets is not None:
        check_offsets(x, offsets, geometry)
    _combination(static_kernel, channel_kernel if dynamic_kernel is None else dynamic_kernel, combine, aggregation, channels)
    if bias is not None:
        companion("bias", bias, "[O]", x)
        if bias.shape != (out_channels,):
            raise ValueError(f"bias must have shape [O] = [{out_channels}], got {list(bias.shape)}")


def _linear(x: Tensor, kernel: LinearKernel, geometry: Geometry, aggregation: str) -> None:
    """Check what a linear map makes a dynamic kernel from against the image."""
    feature, weight, bias, scale, normalization = (getattr(kernel, name) for name in kernel._fields)
    one_of("dynamic_kernel.normalization", normalization, NORMALIZATIONS)
    companion("dynamic_kernel.feature", feature, "[B, R, Ho, Wo]", x)
    if feature.shape[1] < 1 or (feature.shape[0], *feature.shape[2:]) != (x.shape[0], *geometry.output):
        expected = f"[{x.shape[0]}, R, {geometry.output[0]}, {geometry.output[1]}]"
        raise ValueError(f"dynamic_kernel.feature must have shape [B, R, Ho, Wo] = {expected}, got {list(feature.shape)}")
    taps = geometry.taps if aggregation == "gather" else geometry.taps**2
    rows = "G*K" if aggregation == "gather" else "G*K*K"
    companion("dynamic_kernel.weight", weight, f"[{rows}, R]", x)
    if weight.shape[1] != feature.shape[1]:
        raise ValueError(
            f"dynamic_kernel.weight must be [{rows}, R] with the R={feature.shape[1]} channels of dynamic_kernel.feature, "
            f"got {list(weight.shape)}"
        )
    if weight.shape[0] < 1 or weight.shape[0] % taps:
        raise ValueError(
            f"dynamic_kernel.weight must be [{rows}, R] for aggregation={aggregation!r}, a multiple of {taps} rows, "
            f"got {list(weight.shape)}"
        )
    groups, channels = weight.shape[0] // taps, x.shape[1]
    if channels % groups:
        raise ValueError(f"dynamic_kernel.weight makes G={groups} kernels, which must divide the channels of x, C={channels}")
    if bias is not None:
        companion("dynamic_kernel.bias", bias, f"[{rows}]", x)
        if bias.shape[0] != weight.shape[0]:
            raise ValueError(
                f"dynamic_kernel.bias must have the {weight.shape[0]} rows of dynamic_kernel.weight, got {list(bias.shape)}"
            )
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < abs(scale) < inf:
        raise ValueError(f"dynamic_kernel.scale must be a finite number other than 0, got {scale!r}")


def _attention(x: Tensor, kernel: AttentionKernel, offsets: Any, geometry: Geometry, aggregation: str) -> None:
    """Check what attention makes its kernel from against the image."""
    query, key, heads, position, normalization = (getattr(kernel, name) for name in kernel._fields)
    if aggregation == "fold":
        raise ValueError("aggregation='fold' needs a dynamic_kernel of K*K values a window, an AttentionKernel has K")
    one_of("dynamic_kernel.normalization", normalization, NORMALIZATIONS)
    _products(query, key, heads, offsets, x, geometry, prefix="dynamic_kernel.", image="x")
    if x.shape[1] % heads:
        raise ValueError(f"dynamic_kernel.heads must divide the channels of x, got heads={heads!r}, channels={x.shape[1]}")
    if position is not None:
        tensor("dynamic_kernel.position", position, "[G, kh, kw]")
        _same_device("dynamic_kernel.position", position, x)
        if position.dtype != torch.float32 or x.dtype not in HALF:
            companion("dynamic_kernel.position", position, "[G, kh, kw]", x)
        if position.shape != (heads, *geometry.kernel_size):
            raise ValueError(
                f"dynamic_kernel.position must have shape {[heads, *geometry.kernel_size]}, got {list(position.shape)}"
            )


def similarity(query: Any, key: Any, heads: Any, offsets: Any, geometry: Geometry) -> None:
    """Check the arguments of :func:`unified_extractor.ops.functional.similarity`."""
    if offsets is not None:
        check_offsets(key, offsets, geometry, of="key")
    _products(query, key, heads, offsets, key, geometry, prefix="", image="key")


def _products(query: Any, key: Any, heads: Any, offsets: Any, x: Tensor, geometry: Geometry, *, prefix: str, image: str) -> None:
    """Check query, keys and heads against the image that is sampled at the same taps, called ``image``."""
    companion(f"{prefix}query", query, "[B, E, Ho, Wo]", x, of=image)
    companion(f"{prefix}key", key, "[B, E, H, W]", x, of=image)
    if (key.shape[0], *key.shape[2:]) != (x.shape[0], *geometry.image):
        raise ValueError(f"{prefix}key must be an image of the size of {image}, {list(x.shape)}, got {list(key.shape)}")
    if query.shape != (*key.shape[:2], *geometry.output):
        raise ValueError(f"{prefix}query must have shape {[*key.shape[:2], *geometry.output]}, got {list(query.shape)}")
    if key.shape[1] < 1:
        raise ValueError(f"{prefix}key must have at least one channel, got shape {list(key.shape)}")
    if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1 or key.shape[1] % heads:
        raise ValueError(f"{prefix}heads must divide the channels of {prefix}key, got heads={heads!r}, channels={key.shape[1]}")
    if isinstance(offsets, Tensor) and offsets.dim() == 6 and offsets.shape[1] and heads % offsets.shape[1]:
        raise ValueError(f"offsets has F={offsets.shape[1]} groups, which must divide {prefix}heads={heads}")


def _static(x: Tensor, static_kernel: Any, geometry: Geometry) -> None:
    has_terms = isinstance(static_kernel, Tensor) and static_kernel.dim() == 5
    layout = "[M, O, C/groups, kh, kw]" if has_terms else "[O, C/groups, kh, kw]"
    companion("static_kernel", static_kernel, layout, x)
    channels = x.shape[1]
    out_channels, per_group = static_kernel.shape[-4:-2]
    if tuple(static_kernel.shape[-2:]) != geometry.kernel_size:
        raise ValueError(f"static_kernel must end in kernel_size={geometry.kernel_size}, got shape {list(static_kernel.shape)}")
    if min(static_kernel.shape) < 1 or channels % per_group:
        raise ValueError(
            f"static_kernel must be {layout} with C={channels} divisible by C/groups, got shape {list(static_kernel.shape)}"
        )
    if out_channels % (channels // per_group):
        raise ValueError(
            f"static_kernel has groups=C/{per_group}={channels // per_group}, which must divide O={out_channels}, "
            f"got shape {list(static_kernel.shape)}"
        )


def _check_terms(static_kernel: Tensor, dynamic_kernel: Any, combine: str, aggregation: str) -> None:
    """Check that a static kernel of M terms has a dynamic kernel of as many beside it, in a gather that multiplies."""
    terms = f"static_kernel with M={static_kernel.shape[0]} terms"
    if aggregation != "gather":
        raise ValueError(f"{terms} needs aggregation='gather', got aggregation={aggregation!r}")
    if combine != "multiply":
        raise ValueError(f"{terms} needs combine='multiply', got combine={combine!r}")
    if not isinstance(dynamic_kernel, Tensor):
        got = "None" if dynamic_kernel is None else type(dynamic_kernel).__name__
        raise ValueError(f"{terms} needs dynamic_kernel as a tensor [B, M, G, K, Ho, Wo], got {got}")
    if dynamic_kernel.dim() == 6 and dynamic_kernel.shape[1] != static_kernel.shape[0]:
        shapes = f"{list(dynamic_kernel.shape)} beside static_kernel {list(static_kernel.shape)}"
        raise ValueError(f"dynamic_kernel must be [B, M, G, K, Ho, Wo] with the M of static_kernel, got shape {shapes}")


def _dynamic(x: Tensor, dynamic_kernel: Any, geometry: Geometry, aggregation: str, *, terms: bool) -> None:
    layout = "[B, M, G, K, Ho, Wo]" if terms else "[B, G, K, Ho, Wo]" if aggregation == "gather" else "[B, G, K, K, Ho, Wo]"
    if not isinstance(dynamic_kernel, Tensor):
        raise TypeError(
            f"dynamic_kernel must be a tensor {layout} for aggregation={aggregation!r}, a LinearKernel or an AttentionKernel, "
            f"got {type(dynamic_kernel).__name__}"
        )
    beside = "a static_kernel of M terms" if terms else f"aggregation={aggregation!r}"
    if not terms and aggregation == "gather" and dynamic_kernel.dim() == 6:
        beside += " and a static_kernel without an axis of terms"
    companion("dynamic_kernel", dynamic_kernel, f"{layout} for {beside}", x)
    _batch_and_positions("dynamic_kernel", dynamic_kernel, x, geometry)
    _divides("dynamic_kernel", "G", dynamic_kernel, x, axis=1 + terms)
    taps = tuple(dynamic_kernel.shape[2 + terms : -2])
    if any(size != geometry.taps for size in taps) and (aggregation, taps) != ("gather", (1,)):
        or_one = " or K=1, one value for all of them" if aggregation == "gather" else ""
        raise ValueError(
            f"dynamic_kernel must be {layout} with K={geometry.taps} taps{or_one}, got shape {list(dynamic_kernel.shape)}"
        )


def _channel_kernel(x: Tensor, channel_kernel: Any, geometry: Geometry) -> None:
    companion("channel_kernel", channel_kernel, "[B, C, K]", x)
    if channel_kernel.shape[:2] != x.shape[:2] or channel_kernel.shape[2] not in (1, geometry.taps):
        expected = f"[B, C, K] = {[*x.shape[:2], geometry.taps]} or with K=1, one value for all taps"
        raise ValueError(f"channel_kernel must have shape {expected}, got {list(channel_kernel.shape)}")


def check_offsets(x: Tensor, offsets: Any, geometry: Geometry, of: str = "x") -> None:
    """Check offsets against the image: shape, dtype (float32 is allowed beside a half-precision image), device."""
    layout = "[B, F, K, 2, Ho, Wo]"
    tensor("offsets", offsets, layout)
    if offsets.dtype != x.dtype and not (x.dtype in HALF and offsets.dtype == torch.float32):
        raise TypeError(
            f"offsets must have the dtype of {of}, {x.dtype}, or float32 beside a half-precision {of}, got {offsets.dtype}"
        )
    _same_device("offsets", offsets, x, of)
    _batch_and_positions("offsets", offsets, x, geometry, of)
    _divides("offsets", "F", offsets, x, of)
    if offsets.shape[2] != geometry.taps or offsets.shape[3] != 2:
        raise ValueError(f"offsets must be {layout} with K={geometry.taps} taps and (y, x), got shape {list(offsets.shape)}")


def _combination(static_kernel: Any, dynamic_kernel: Any, combine: str, aggregation: str, channels: int) -> None:
    if combine != "multiply" and (static_kernel is None or dynamic_kernel is None):
        raise ValueError(f"combine={combine!r} needs both static_kernel and dynamic_kernel")
    if combine == "add" and static_kernel.shape[0] != channels:
        raise ValueError(
            f"combine='add' needs as many output as input channels, got static_kernel with O={static_kernel.shape[0]}, C={channels}"
        )
    if aggregation == "fold" and combine != "multiply":
        raise ValueError(f"aggregation='fold' only multiplies, got combine={combine!r}")
    if aggregation == "fold" and static_kernel is not None and tuple(static_kernel.shape[:2]) != (channels, 1):
        raise ValueError(
            f"aggregation='fold' takes static_kernel depthwise, [C, 1, kh, kw] with C={channels}, or absent, "
            f"got shape {list(static_kernel.shape)}"
        )


def _batch_and_positions(name: str, value: Tensor, x: Tensor, geometry: Geometry, of: str = "x") -> None:
    if value.shape[0] != x.shape[0]:
        raise ValueError(f"{name} must have the batch size of {of}, {x.shape[0]}, got shape {list(value.shape)}")
    for axis, label in ((-2, "Ho"), (-1, "Wo")):
        if value.shape[axis] not in (1, geometry.output[axis]):
            raise ValueError(
                f"{name} must have {label}={geometry.output[axis]} or 1 at axis {axis}, got shape {list(value.shape)}"
            )


def _divides(name: str, letter: str, value: Tensor, x: Tensor, of: str = "x", axis: int = 1) -> None:
    """Raise unless an axis of ``value``, a number of groups, divides the channels of ``x``."""
    groups, channels = value.shape[axis], x.shape[1]
    if groups < 1 or channels % groups:
        raise ValueError(f"{name} has {letter}={groups} groups, which must divide the channels of {of}, C={channels}")


def companion(name: str, value: Any, layout: str, x: Tensor, of: str = "x") -> None:
    """Raise unless a value is a tensor of the given layout with dtype and device of ``x``."""
    tensor(name, value, layout)
    if value.dtype != x.dtype:
        raise TypeError(f"{name} must have the dtype of {of}, {x.dtype}, got {value.dtype}")
    _same_device(name, value, x, of)


def _same_device(name: str, value: Tensor, x: Tensor, of: str = "x") -> None:
    if value.device != x.device:
        raise ValueError(f"{name} must be on the device of {of}, {x.device}, got {value.device}")


def tensor(name: str, value: Any, layout: str) -> None:
    """Raise unless a value is a tensor with as many axes as ``layout`` names."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor {layout}, got {type(value).__name__}")
    if value.dim() != layout.split("]")[0].count(",") + 1:
        raise ValueError(f"{name} must be {layout}, got shape {list(value.shape)}")


def pair(name: str, value: Any, minimum: int, or_else: str = "") -> tuple[int, int]:
    """Return an int or (y, x), each at least ``minimum``, as (y, x). ``or_else``: what the message may offer besides."""
    values = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(values) != 2 or any(isinstance(v, bool) or not isinstance(v, int) for v in values):
        raise TypeError(f"{name} must be an int or a pair (y, x) of ints{or_else}, got {value!r}")
    if min(values) < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value!r}")
    return values


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise unless a value is one of the given names."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}{did_you_mean(value, choices)}")
