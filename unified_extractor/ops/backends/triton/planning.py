"""How a call is cut into tiles, from shapes, strides and dtypes.

C channels, G kernel groups, F offset groups, U units, N channels of a unit.
"""

from math import gcd, prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unified_extractor.ops.backends.triton.records import Image, LinearMap, Plan, Sizes, WindowValues
from unified_extractor.ops.custom_ops import Call
from unified_extractor.ops.dynamic_kernels import KernelGenerator, generating_work
from unified_extractor.ops.geometry import Geometry

_TILE = 2048
"""Bytes of a tile: one load of 16 bytes for each of 128 threads, so a value of the pair at most for every other thread. A pair must
have fewer values than a program has threads: only then does Triton load it where it is needed, not through shared memory."""
_PLANAR_TILE = 512
"""Values of a tile where channels are not neighbours: each is a load of its own, and four a thread are enough at once."""
_LINE = 64
"""Channels of a tile where they lie next to each other: 128 bytes in half precision, a line of the cache."""
_DENSE_POSITIONS, _DENSE_CHANNELS, _DENSE_OUTPUTS = 32, 32, 256
"""Tiles of the matrix product, the last in bytes: its sums leave room for the corners of what is sampled."""
_LEAST = 16
"""Of each axis of a matrix product."""
_WORTH_GENERATING = 2
"""Multiply-adds that make a kernel, for each in which it is used: measured up to this ratio, with 7x7 taps."""
_DEPTH, _SOFTMAX_TAPS = 64, 16
"""The most channels of a feature, and taps of a softmax, of which registers hold all that a tile's kernels need."""


class Groups(NamedTuple):
    """How channels are grouped: how many units there are, their size, and how many of them a group of each kind has (0: no such groups)."""

    channel_groups: int
    group_channels: int
    kernel: int
    offsets: int
    convolution: int


def is_channels_last(x: Tensor) -> bool:
    """Whether an image's channels lie next to each other."""
    return x.shape[1] > 1 and x.stride(1) == 1


def image_of(x: Tensor | None) -> Image:
    """An image ``[B, C, h, w]`` or ``[B, C, K, h, w]`` for a kernel."""
    if x is None:
        return Image(None, 0, 0, 0, 0, 0)
    _, channel, *tap, row, column = x.stride()
    return Image(x, _batch_step(x), channel, tap[0] if tap else 0, row, column)


def dynamic_of(dynamic: Tensor | None, fold: bool, partial_sum: int = 0) -> WindowValues:
    """A dynamic kernel, ``[B, G, K, Ho, Wo]`` or a fold's ``[B, G, K, K, Ho, Wo]``, for a kernel."""
    if dynamic is None:
        return WindowValues(None, 0, 0, 0, 0, 0, 0, 0)
    _, group, *part, tap, _, _ = dynamic.stride()
    return WindowValues(dynamic, partial_sum, _batch_step(dynamic), group, part[0] if fold else 0, tap, *_steps(dynamic))


def offsets_of(offsets: Tensor | None, partial_sum: int = 0) -> WindowValues:
    """Offsets ``[B, F, K, 2, Ho, Wo]`` for a kernel."""
    if offsets is None:
        return WindowValues(None, 0, 0, 0, 0, 0, 0, 0)
    _, group, tap, axis, _, _ = offsets.stride()
    return WindowValues(offsets, partial_sum, _batch_step(offsets), group, axis, tap, *_steps(offsets))


def map_of(generator: KernelGenerator) -> LinearMap:
    """What makes a dynamic kernel, for a kernel."""
    _, channel, row, column = generator.feature.stride()
    weight, bias = ((scaled if scaled is None else (generator.scale * scaled.detach()).contiguous()) for scaled in generator[1:3])
    assert weight is not None
    return LinearMap(generator.feature, _batch_step(generator.feature), channel, row, column, weight, bias)


def generates_forward(call: Call) -> bool:
    """Whether a gather can make the kernel of this call: groups must lie whole in a tile, and a softmax takes sixteen taps."""
    groups, generator = groups_of(call), call.generator
    if generator is None or generator.heads or call.aggregation != "gather" or groups.convolution or groups.kernel != 1:
        return False
    whole = _tile_of_channels(groups, is_channels_last(call.x))[1] >= groups.group_channels
    few = generator.normalization != "softmax" or call.geometry.taps <= _SOFTMAX_TAPS
    return whole and few and generator.feature.shape[1] <= _DEPTH


def generates_backward(call: Call) -> bool:
    """Whether backward can make it again: on the regular grid, from this window's taps alone, without a static kernel."""
    assert call.generator is not None
    simple = call.static is None and call.offsets is None and call.generator.normalization != "softmax"
    return simple and generates_forward(call)


def generates(call: Call) -> bool:
    """Whether making this call's kernel is faster than to store it, as measured (``benchmarks/gpu.md``): without gradients it is.

    Backward makes it tap by tap without the matrix units, and a step takes longer than with the kernel stored.
    """
    generator = call.generator
    assert generator is not None
    used = _WORTH_GENERATING * call.geometry.taps * call.x.shape[1]
    leaves = (call.x, generator.feature, generator.weight, generator.bias)
    differentiated = torch.is_grad_enabled() and any(leaf is not None and leaf.requires_grad for leaf in leaves)
    return not differentiated and generates_backward(call) and generating_work(generator, call.geometry) <= used


def _batch_step(tensor: Tensor) -> int:
    """From image to image; 0 where there is one, whose stride may be any number, and another number another compilation."""
    return 0 if tensor.shape[0] == 1 else tensor.stride(0)


def _steps(values: Tensor) -> tuple[int, int]:
    """From row to row and column to column; 0 along an axis that is broadcast."""
    row, column = (0 if values.shape[axis] == 1 else values.stride(axis) for axis in (-2, -1))
    return row, column


def sizes_of(geometry: Geometry) -> Sizes:
    """A window's sizes for a kernel."""
    return Sizes(*geometry.image, *geometry.output, *geometry.padding)


def is_one(values: Tensor | None, geometry: Geometry) -> bool:
    """Whether values at windows are the same at every one of several positions."""
    return values is not None and tuple(values.shape[-2:]) == (1, 1) != geometry.output


def groups_of(call: Call) -> Groups:
    """The channel groups of a call."""
    channels, static = call.x.shape[1], call.static
    made = call.dynamic is not None or call.generator is not None or call.heads
    kernel_channels = channels // call.dynamic_shape()[1] if made else 0
    offset_channels = channels // call.offsets.shape[1] if call.offsets is not None else 0
    convolution_channels = static.shape[1] if static is not None and static.shape[:2] != (channels, 1) else 0
    unit = gcd(channels, kernel_channels, offset_channels, convolution_channels)
    return Groups(channels // unit, unit, kernel_channels // unit, offset_channels // unit, convolution_channels // unit)


def plan_for(call: Call, gradient: Tensor | None = None, *, interpreted: bool) -> Plan:
    """The plan of a call or, with the gradient of its output, of its backward."""
    x, geometry, groups = call.x, call.geometry, groups_of(call)
    channels_last, dense = is_channels_last(x), groups.convolution > 0
    outputs = call.static.shape[0] // (groups.channel_groups // groups.convolution) if dense and call.static is not None else 0
    tile_channel_groups, tile_group_channels = _tile_of_channels(groups, channels_last)
    tile_positions = _tile_of_positions(x, tile_channel_groups * tile_group_channels, dense)
    group_blocks = -(-groups.group_channels // tile_group_channels)
    depth = 0 if call.generator is None else call.generator.feature.shape[1]
    return Plan(
        channels_last=channels_last,
        aggregation=call.aggregation,
        combine=call.combine,
        kernel_height=geometry.kernel_size[0],
        kernel_width=geometry.kernel_size[1],
        taps=geometry.taps,
        output_taps=geometry.taps if call.aggregation == "fold" else 1,
        stride_y=geometry.stride[0],
        stride_x=geometry.stride[1],
        dilation_y=geometry.dilation[0],
        dilation_x=geometry.dilation[1],
        has_offsets=call.offsets is not None,
        has_dynamic_kernel=call.dynamic is not None or call.generator is not None,
        adjacent_taps=call.generator is not None or (call.dynamic is not None and call.dynamic.stride(-3) == 1),
        feature_channels=depth,
        tile_feature_channels=max(_power(depth), _LEAST),
        normalization="none" if call.generator is None else call.generator.normalization,
        static_kernel="none" if call.static is None else "dense" if dense else "depthwise",
        channel_groups=groups.channel_groups,
        group_channels=groups.group_channels,
        kernel_channel_groups=groups.kernel,
        offset_channel_groups=groups.offsets,
        convolution_channel_groups=groups.convolution,
        convolution_outputs=outputs,
        output_channels=call.static.shape[0] if dense and call.static is not None else 0,
        tile_positions=min(tile_positions, max(_power(geometry.output[0] * geometry.output[1]), _LEAST)),
        tile_channel_groups=tile_channel_groups,
        tile_group_channels=tile_group_channels,
        tile_outputs=min(max(_power(outputs), _LEAST), _DENSE_OUTPUTS // x.element_size()),
        group_blocks=group_blocks,
        blocks=-(-groups.channel_groups // tile_channel_groups) * group_blocks,
        kernel_blocks=max(1, groups.kernel // tile_channel_groups) * group_blocks,
        offset_blocks=max(1, groups.offsets // tile_channel_groups) * group_blocks,
        one_kernel=is_one(call.dynamic, geometry),
        one_offset=is_one(call.offsets, geometry),
        wide=_largest_span(call, gradient) > 2**31,
        dtype=str(x.dtype).removeprefix("torch."),
        precision="tf32" if dense and torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee",
        interpreted=interpreted,
    )


def _tile_of_channels(groups: Groups, channels_last: bool) -> tuple[int, int]:
    """Units and channels of a unit in a tile: many channels where these are neighbours, else few."""
    most = _DENSE_CHANNELS if groups.convolution else _LINE
    unit = min(_power(groups.group_channels), most)
    if groups.convolution:
        unit = max(unit, _LEAST)
    units = max((most if channels_last or groups.convolution else _LEAST) // unit, 1)
    if unit < groups.group_channels:
        units = 1
    # a tile holds whole groups of one unit, or lies within one of several; in a matrix product always within one
    shared = gcd(groups.convolution, *(count for count in (groups.kernel, groups.offsets) if count > 1))
    return min(units, shared & -shared if shared else _power(groups.channel_groups)), unit


def _tile_of_positions(x: Tensor, channels: int, dense: bool) -> int:
    """Positions in a tile of so many channels."""
    if dense:
        return _DENSE_POSITIONS
    tile = _TILE // x.element_size()
    return max((tile if is_channels_last(x) else min(tile, _PLANAR_TILE)) // channels, 1)


def _power(size: int) -> int:
    """The next power of two."""
    return 1 << max(size - 1, 0).bit_length()


def _largest_span(call: Call, gradient: Tensor | None) -> Any:
    """Elements between the first and the last address of one image, of whatever is read or written."""
    feature = None if call.generator is None else call.generator.feature
    read = [tensor for tensor in (call.x, call.dynamic, feature, call.offsets, gradient) if tensor is not None]
    written = [call.output_shape(), *(tensor.shape for tensor in read)]
    if call.heads:
        written.append(call.dynamic_shape())
    if call.offsets is not None:  # the gradient of what every tap reads, where it is not added up at once
        written.append((1, call.x.shape[1], call.geometry.taps, *call.geometry.output))
    spans = [sum((n - 1) * step for n, step in zip(t.shape[1:], t.stride()[1:], strict=True)) + 1 for t in read]
    return max(*spans, *(prod(shape[1:]) for shape in written))
