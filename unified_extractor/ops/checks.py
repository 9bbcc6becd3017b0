"""Every error about shapes, sizes, dtypes and devices, raised before a backend sees the call.

B batch, C input channels, O output channels, G kernel groups, F offset groups, K taps, Ho, Wo output positions.
"""

from math import inf
from typing import Any, Literal

import torch
from torch import Tensor

from unified_extractor.ops.dynamic_kernels import NORMALIZATIONS, KernelGenerator
from unified_extractor.ops.geometry import Geometry

Ints = int | tuple[int, int]
Padding = Ints | Literal["same"]

HALF = (torch.float16, torch.bfloat16)
FLOATS = (*HALF, torch.float32, torch.float64)


def geometry(x: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any) -> Geometry:
    """Check image and geometry, and return their sizes. Raises ``TypeError`` or ``ValueError``."""
    tensor("x", x, "[B, C, H, W]")
    if x.dtype not in FLOATS:
        raise TypeError(f"x must have one of the floating point dtypes {', '.join(map(str, FLOATS))}, got {x.dtype}")
    if min(x.shape[1:]) < 1:
        raise ValueError(f"x must have at least one channel, row and column, got shape {tuple(x.shape)}")
    kernel_size, dilation = pair("kernel_size", kernel_size, 1), pair("dilation", dilation, 1)
    reach = (dilation[0] * (kernel_size[0] - 1), dilation[1] * (kernel_size[1] - 1))
    stride = pair("stride", stride, 1)
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
            f"x of height {height} and width {width}"
        )
    return Geometry(kernel_size, stride, before, after, dilation, (height, width), output)


def extract(
    x: Tensor,
    static_kernel: Any,
    dynamic_kernel: Any,
    offsets: Any,
    bias: Any,
    geometry: Geometry,
    combine: Any,
    aggregation: Any,
) -> None:
    """Check kernels, offsets and the names of :func:`unified_extractor.extract` against the image and each other."""
    one_of("combine", combine, ("multiply", "add", "residual"))
    one_of("aggregation", aggregation, ("gather", "fold"))
    channels = x.shape[1]
    out_channels = channels
    if static_kernel is not None:
        _static(x, static_kernel, geometry)
        out_channels = static_kernel.shape[0]
    if isinstance(dynamic_kernel, KernelGenerator):
        generator(x, dynamic_kernel, geometry, aggregation)
    elif dynamic_kernel is not None:
        _dynamic(x, dynamic_kernel, geometry, aggregation)
    if offsets is not None:
        moved(x, offsets, geometry)
    _combination(static_kernel, dynamic_kernel, combine, aggregation, channels)
    if bias is not None:
        companion("bias", bias, "[O]", x)
        if bias.shape != (out_channels,):
            raise ValueError(f"bias must have shape [O] = [{out_channels}], got {list(bias.shape)}")


def fused(value: Any) -> None:
    """None, True or False, and nothing that equals one of them."""
    if value is not None and not isinstance(value, bool):
        raise TypeError(f"fused must be None, True or False, got {value!r}")


def attention(value: Tensor, query: Any, key: Any, position: Any, heads: Any, normalization: Any, geometry: Geometry) -> None:
    """Check what :func:`unified_extractor.ops.functional.attend` makes its kernel from against the image."""
    tensor("value", value, "[B, C, H, W]")
    one_of("normalization", normalization, NORMALIZATIONS)
    companion("query", query, "[B, E, Ho, Wo]", value)
    companion("key", key, "[B, E, H, W]", value)
    if (key.shape[0], *key.shape[2:]) != (value.shape[0], *geometry.image):
        raise ValueError(f"key must be an image of the size of value, {list(value.shape)}, got {list(key.shape)}")
    if query.shape != (*key.shape[:2], *geometry.output):
        raise ValueError(f"query must have shape {[*key.shape[:2], *geometry.output]}, got {list(query.shape)}")
    for name, channels in (("key", key.shape[1]), ("value", value.shape[1])):
        if channels < 1:
            raise ValueError(f"{name} must have at least one channel, got shape {list(key.shape)}")
        if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1 or channels % heads:
            raise ValueError(f"heads must divide the channels of {name}, got heads={heads!r}, channels={channels}")
    if position is not None:
        tensor("position", position, "[G, kh, kw]")
        _same_device("position", position, value)
        if position.dtype != torch.float32 or value.dtype not in HALF:
            companion("position", position, "[G, kh, kw]", value)
        if position.shape != (heads, *geometry.kernel_size):
            raise ValueError(f"position must have shape {[heads, *geometry.kernel_size]}, got {list(position.shape)}")


def generator(x: Tensor, generator: KernelGenerator, geometry: Geometry, aggregation: Any) -> None:
    """Check what makes a dynamic kernel against the image."""
    feature, weight, bias, scale, normalization, heads = generator
    if heads:
        return
    one_of("aggregation", aggregation, ("gather", "fold"))
    one_of("normalization", normalization, NORMALIZATIONS)
    companion("feature", feature, "[B, R, Ho, Wo]", x)
    if feature.shape[1] < 1 or (feature.shape[0], *feature.shape[2:]) != (x.shape[0], *geometry.output):
        expected = [x.shape[0], "R", *geometry.output]
        raise ValueError(f"feature must have shape [B, R, Ho, Wo] = {expected}, got {list(feature.shape)}")
    taps = geometry.taps if aggregation == "gather" else geometry.taps**2
    rows = "G*K" if aggregation == "gather" else "G*K*K"
    companion("head_weight", weight, f"[{rows}, R]", x)
    if weight.shape[1] != feature.shape[1]:
        raise ValueError(
            f"head_weight must be [{rows}, R] with the R={feature.shape[1]} channels of feature, got {list(weight.shape)}"
        )
    if weight.shape[0] < 1 or weight.shape[0] % taps:
        raise ValueError(
            f"head_weight must be [{rows}, R] for aggregation={aggregation!r}, a multiple of {taps} rows, got {list(weight.shape)}"
        )
    groups, channels = weight.shape[0] // taps, x.shape[1]
    if channels % groups:
        raise ValueError(f"head_weight makes G={groups} kernels, which must divide the channels of x, C={channels}")
    if bias is not None:
        companion("head_bias", bias, f"[{rows}]", x)
        if bias.shape[0] != weight.shape[0]:
            raise ValueError(f"head_bias must have the {weight.shape[0]} rows of head_weight, got {list(bias.shape)}")
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < abs(scale) < inf:
        raise ValueError(f"scale must be a finite number other than 0, got {scale!r}")


def _static(x: Tensor, static_kernel: Any, geometry: Geometry) -> None:
    companion("static_kernel", static_kernel, "[O, C/groups, kh, kw]", x)
    channels = x.shape[1]
    out_channels, per_group = static_kernel.shape[:2]
    if tuple(static_kernel.shape[2:]) != geometry.kernel_size:
        raise ValueError(f"static_kernel must end in kernel_size={geometry.kernel_size}, got shape {list(static_kernel.shape)}")
    if out_channels < 1 or per_group < 1 or channels % per_group:
        raise ValueError(
            f"static_kernel must be [O, C/groups, kh, kw] with C={channels} divisible by its second size, "
            f"got shape {list(static_kernel.shape)}"
        )
    if out_channels % (channels // per_group):
        raise ValueError(
            f"static_kernel has groups=C/{per_group}={channels // per_group}, which must divide O={out_channels}, "
            f"got shape {list(static_kernel.shape)}"
        )


def _dynamic(x: Tensor, dynamic_kernel: Any, geometry: Geometry, aggregation: str) -> None:
    layout = "[B, G, K, Ho, Wo]" if aggregation == "gather" else "[B, G, K, K, Ho, Wo]"
    companion("dynamic_kernel", dynamic_kernel, f"{layout} for aggregation={aggregation!r}", x)
    _batch_and_positions("dynamic_kernel", dynamic_kernel, x, geometry)
    divides("dynamic_kernel", "G", dynamic_kernel, x)
    if any(size != geometry.taps for size in dynamic_kernel.shape[2:-2]):
        raise ValueError(f"dynamic_kernel must be {layout} with K={geometry.taps} taps, got shape {list(dynamic_kernel.shape)}")


def moved(x: Tensor, offsets: Any, geometry: Geometry) -> None:
    """Check offsets against the image: shape, dtype (float32 is allowed beside a half-precision image), device."""
    layout = "[B, F, K, 2, Ho, Wo]"
    tensor("offsets", offsets, layout)
    if offsets.dtype != x.dtype and not (x.dtype in HALF and offsets.dtype == torch.float32):
        raise TypeError(f"offsets must have the dtype of x, {x.dtype}, or float32 beside a half-precision x, got {offsets.dtype}")
    _same_device("offsets", offsets, x)
    _batch_and_positions("offsets", offsets, x, geometry)
    divides("offsets", "F", offsets, x)
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


def _batch_and_positions(name: str, value: Tensor, x: Tensor, geometry: Geometry) -> None:
    if value.shape[0] != x.shape[0]:
        raise ValueError(f"{name} must have the batch size of x, {x.shape[0]}, got shape {list(value.shape)}")
    for axis, label in ((-2, "Ho"), (-1, "Wo")):
        if value.shape[axis] not in (1, geometry.output[axis]):
            raise ValueError(
                f"{name} must have {label}={geometry.output[axis]} or 1 at axis {axis}, got shape {list(value.shape)}"
            )


def divides(name: str, letter: str, value: Tensor, x: Tensor) -> None:
    """The second axis of ``value``, a number of groups, must divide the channels of ``x``."""
    groups, channels = value.shape[1], x.shape[1]
    if groups < 1 or channels % groups:
        raise ValueError(f"{name} has {letter}={groups} groups, which must divide the channels of x, C={channels}")


def companion(name: str, value: Any, layout: str, x: Tensor) -> None:
    """A tensor of the given layout with dtype and device of ``x``."""
    tensor(name, value, layout)
    if value.dtype != x.dtype:
        raise TypeError(f"{name} must have the dtype of x, {x.dtype}, got {value.dtype}")
    _same_device(name, value, x)


def _same_device(name: str, value: Tensor, x: Tensor) -> None:
    if value.device != x.device:
        raise ValueError(f"{name} must be on the device of x, {x.device}, got {value.device}")


def tensor(name: str, value: Any, layout: str) -> None:
    """A tensor with as many axes as ``layout`` names."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor {layout}, got {type(value).__name__}")
    if value.dim() != layout.split("]")[0].count(",") + 1:
        raise ValueError(f"{name} must be {layout}, got shape {list(value.shape)}")


def pair(name: str, value: Any, minimum: int, or_else: str = "") -> tuple[int, int]:
    """An int or (y, x), each at least ``minimum``, as (y, x). ``or_else``: what the message may offer besides."""
    values = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(values) != 2 or any(isinstance(v, bool) or not isinstance(v, int) for v in values):
        raise TypeError(f"{name} must be an int or a pair (y, x) of ints{or_else}, got {value!r}")
    if min(values) < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value!r}")
    return values


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """One of the given names."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}")
