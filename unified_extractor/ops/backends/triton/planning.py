"""How a call is cut into tiles, from shapes, strides and dtypes.

C channels, G kernel groups, F offset groups, U units, N channels of a unit.
"""

from math import gcd, prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unified_extractor.ops.backends.triton.records import Image, LinearMap, Plan, Sizes, WindowValues
from unified_extractor.ops.call import Call
from unified_extractor.ops.cost import kernel_multiply_adds, use_multiply_adds
from unified_extractor.ops.dynamic_kernels import LinearKernel
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


def map_of(kernel: LinearKernel) -> LinearMap:
    """What makes a dynamic kernel, for a kernel."""
    _, channel, row, column = kernel.feature.stride()
    weight, bias = (None if t is None else (kernel.scale * t.detach()).contiguous() for t in (kernel.weight, kernel.bias))
    assert weight is not None
    return LinearMap(kernel.feature, _batch_step(kernel.feature), channel, row, column, weight, bias)


def computes_forward(call: Call) -> bool:
    """Return whether a gather can compute the kernel of this call: groups must lie whole in a tile, and a softmax takes sixteen taps."""
    groups, kernel = groups_of(call), call.computed_kernel
    if not isinstance(kernel, LinearKernel) or call.aggregation != "gather" or groups.convolution or groups.kernel != 1:
        return False
    whole = _tile_of_channels(groups, is_channels_last(call.x))[1] >= groups.group_channels
    few = kernel.normalization != "softmax" or call.geometry.taps <= _SOFTMAX_TAPS
    return whole and few and kernel.feature.shape[1] <= _DEPTH


def computes_backward(call: Call) -> bool:
    """Return whether backward can compute it again: on the regular grid, from this window's taps alone, without a static kernel."""
    kernel = call.computed_kernel
    simple = call.static_kernel is None and call.offsets is None and kernel is not None and kernel.normalization != "softmax"
    return simple and computes_forward(call)


def pays_on_chip(call: Call) -> bool:
    """Return whether computing this call's kernel is faster than storing it, as measured (``benchmarks/gpu.md``): without gradients it is.

    Backward computes it tap by tap without the matrix units, and a step takes longer than with the kernel stored.
    """
    kernel = call.computed_kernel
    if not isinstance(kernel, LinearKernel) or not computes_backward(call):
        return False
    leaves = (call.x, kernel.feature, kernel.weight, kernel.bias)
    differentiated = torch.is_grad_enabled() and any(leaf is not None and leaf.requires_grad for leaf in leaves)
    return not differentiated and kernel_multiply_adds(kernel, call.geometry) <= _WORTH_GENERATING * use_multiply_adds(call)


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
    channels, static = call.channels, call.static_kernel
    kernel_channels = channels // call.kernel_shape()[1] if call.dynamic_kernel is not None else 0
    offset_channels = channels // call.offsets.shape[1] if call.offsets is not None else 0
    convolution_channels = static.shape[1] if static is not None and call.has_dense_kernel else 0
    unit = gcd(channels, kernel_channels, offset_channels, convolution_channels)
    return Groups(channels // unit, unit, kernel_channels // unit, offset_channels // unit, convolution_channels // unit)


def plan_for(call: Call, gradient: Tensor | None = None, *, interpreted: bool) -> Plan:
    """The plan of a call or, with the gradient of its output, of its backward."""
    x, geometry, groups = call.x, call.geometry, groups_of(call)
    static, kernel, dynamic = call.static_kernel, call.computed_kernel, call.stored_kernel
    channels_last, dense = is_channels_last(x), groups.convolution > 0
    outputs = static.shape[0] // (groups.channel_groups // groups.convolution) if dense and static is not None else 0
    tile_channel_groups, tile_group_channels = _tile_of_channels(groups, channels_last)
    tile_positions = _tile_of_positions(x, tile_channel_groups * tile_group_channels, dense)
    group_blocks = -(-groups.group_channels // tile_group_channels)
    depth = kernel.feature.shape[1] if isinstance(kernel, LinearKernel) else 0
    return Plan(
        channels_last=channels_last,
        aggregation="gather" if call.aggregation == "similarity" else call.aggregation,
        combine=call.combine,
        kernel_height=geometry.kernel_size[0],
        kernel_width=geometry.kernel_size[1],
        taps=geometry.taps,
        output_taps=call.results_per_window,
        stride_y=geometry.stride[0],
        stride_x=geometry.stride[1],
        dilation_y=geometry.dilation[0],
        dilation_x=geometry.dilation[1],
        has_offsets=call.offsets is not None,
        has_dynamic_kernel=dynamic is not None or kernel is not None,
        adjacent_taps=kernel is not None or (dynamic is not None and dynamic.stride(-3) == 1),
        feature_channels=depth,
        tile_feature_channels=max(_power(depth), _LEAST),
        normalization="none" if kernel is None else kernel.normalization,
        static_kernel="none" if static is None else "dense" if dense else "depthwise",
        channel_groups=groups.channel_groups,
        group_channels=groups.group_channels,
        kernel_channel_groups=groups.kernel,
        offset_channel_groups=groups.offsets,
        convolution_channel_groups=groups.convolution,
        convolution_outputs=outputs,
        output_channels=static.shape[0] if dense and static is not None else 0,
        tile_positions=min(tile_positions, max(_power(geometry.output[0] * geometry.output[1]), _LEAST)),
        tile_channel_groups=tile_channel_groups,
        tile_group_channels=tile_group_channels,
        tile_outputs=min(max(_power(outputs), _LEAST), _DENSE_OUTPUTS // x.element_size()),
        group_blocks=group_blocks,
        blocks=-(-groups.channel_groups // tile_channel_groups) * group_blocks,
        kernel_blocks=max(1, groups.kernel // tile_channel_groups) * group_blocks,
        offset_blocks=max(1, groups.offsets // tile_channel_groups) * group_blocks,
        one_kernel=is_one(dynamic, geometry),
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
    kernel = call.computed_kernel
    feature = kernel.feature if isinstance(kernel, LinearKernel) else None
    read = [tensor for tensor in (call.x, call.stored_kernel, feature, call.offsets, gradient) if tensor is not None]
    written = [call.output_shape(), *(tensor.shape for tensor in read)]
    if call.offsets is not None:  # the gradient of what every tap reads, where it is not added up at once
        written.append((1, call.x.shape[1], call.geometry.taps, *call.geometry.output))
    spans = [sum((n - 1) * step for n, step in zip(t.shape[1:], t.stride()[1:], strict=True)) + 1 for t in read]
    return max(*spans, *(prod(shape[1:]) for shape in written))
