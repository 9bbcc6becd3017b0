"""The plan of a call: its tiles and compile-time switches, from shapes, strides and dtypes.

C channels, G kernel groups, F offset groups, K taps, J channel groups, N channels of a channel group (``tiles.py`` has the definition).
"""

from math import gcd, prod
from typing import Any, NamedTuple

from torch import Tensor

from unified_extractor.ops.backends.triton.records import Plan
from unified_extractor.ops.call import Call
from unified_extractor.ops.geometry import Geometry

_TILE_BYTES = 2048
"""Bytes of a tile: one load of 16 bytes for each of 128 threads, so a value of the group tile at most for every other thread. A group
tile must have fewer values than a program has threads: only then does Triton load it where it is needed, not through shared memory."""
_PLANAR_TILE = 512
"""Values of a tile whose channels are not neighbors: each is a load of its own, and four a thread are enough at once."""
_BLOCK_CHANNELS = 64
"""Channels of a block where they are neighbors: 128 bytes in half precision, a line of the cache."""
_LEAST = 16
"""Least number of positions of a tile, and the channels of one whose channels are not neighbors."""
_VECTOR_BYTES, _ALIGNED = 16, 16
"""Bytes that a thread loads at once, and what a stride must be a multiple of for the compiler to know that they lie in a row."""
_MOST_SLICES = 32
"""Most slices that share a gradient: the threads of a warp, which add up in registers."""


class ChannelGroups(NamedTuple):
    """The channel groups of a call, and how many of them a group of each kind has; 0: there are no groups of that kind."""

    number: int
    """Number of channel groups, J."""
    channels: int
    """Channels of a channel group, N."""
    per_kernel: int
    per_offset: int


def is_channels_last(x: Tensor) -> bool:
    """Return whether the channels of an image lie next to each other."""
    return x.shape[1] > 1 and x.stride(1) == 1


def channel_groups_of(call: Call) -> ChannelGroups:
    """Return the channel groups of a call: as many channels as divide every group."""
    channels = call.channels
    kernel_channels = channels // call.kernel_shape()[1] if call.dynamic_kernel is not None else 0
    offset_channels = channels // call.offsets.shape[1] if call.offsets is not None else 0
    size = gcd(channels, kernel_channels, offset_channels)
    return ChannelGroups(channels // size, size, kernel_channels // size, offset_channels // size)


def plan_for(call: Call, output: Tensor, *, is_backward: bool, interpreted: bool) -> Plan:
    """Return the plan of a call with the memory of its output or, in the backward pass, with the output's gradient."""
    x, geometry, groups = call.x, call.geometry, channel_groups_of(call)
    static, dynamic = call.static_kernel, call.stored_kernel
    channels_last = is_channels_last(x)
    tile_channel_groups, tile_group_channels = _block_of(groups, channels_last)
    tile_positions = _positions_of(x, tile_channel_groups * tile_group_channels)
    group_blocks = -(-groups.channels // tile_group_channels)
    wide = _largest_span(call, output) > 2**31
    slice_channels = 0 if wide else _slice_channels(call, groups, output, is_backward)
    slices = max(groups.channels // max(slice_channels, 1), 1)
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
        has_dynamic_kernel=dynamic is not None,
        adjacent_taps=dynamic is not None and dynamic.stride(-3) == 1,
        static_kernel="none" if static is None else "depthwise",
        channel_groups=groups.number,
        group_channels=groups.channels,
        kernel_channel_groups=groups.per_kernel,
        offset_channel_groups=groups.per_offset,
        tile_positions=min(tile_positions, max(_power_of_two(geometry.output[0] * geometry.output[1]), _LEAST)),
        tile_channel_groups=tile_channel_groups,
        tile_group_channels=tile_group_channels,
        group_blocks=group_blocks,
        blocks=-(-groups.number // tile_channel_groups) * group_blocks,
        kernel_blocks=max(1, groups.per_kernel // tile_channel_groups) * group_blocks,
        offset_blocks=max(1, groups.per_offset // tile_channel_groups) * group_blocks,
        slice_channels=slice_channels,
        slice_vector=_VECTOR_BYTES // x.element_size(),
        kernel_slices=max(groups.per_kernel, 1) * slices,
        offset_slices=max(groups.per_offset, 1) * slices,
        one_kernel=_is_one(dynamic, geometry),
        one_offset=_is_one(call.offsets, geometry),
        wide=wide,
        dtype=str(x.dtype).removeprefix("torch."),
        interpreted=interpreted,
    )


def runs_in_slices(call: Call) -> bool:
    """Return whether a thread has a slice of channels, if the output and its gradient lie in memory as the image does."""
    return _slice_channels(call, channel_groups_of(call), call.x, is_backward=True) > 0


def _slice_channels(call: Call, groups: ChannelGroups, output: Tensor, is_backward: bool) -> int:
    """Return the channels of a slice, or 0 where not every thread can have one.

    The call gathers or unfolds at offsets or with a depthwise static kernel, which is no summand of its weights, and without a computed
    kernel; groups are multiples of 16 bytes of channels, which are neighbors in memory; windows have values of their own; and the slices
    that share a gradient are as many as threads of a warp add up.
    """
    if call.aggregation in ("fold", "similarity") or call.computed_kernel is not None:
        return 0
    if call.offsets is None and call.static_kernel is None:
        return 0
    added = call.static_kernel is not None and call.stored_kernel is not None and call.combine == "add"
    if added or any(_is_one(t, call.geometry) for t in (call.stored_kernel, call.offsets)):
        return 0
    vector = _VECTOR_BYTES // call.x.element_size()
    if groups.channels % vector or not (_is_aligned(call.x) and _is_aligned(output)):
        return 0
    channels = 2 * vector if groups.channels % (2 * vector) == 0 else vector
    sharing = [max(count, 1) * groups.channels // channels for count in (groups.per_kernel, groups.per_offset)]
    if is_backward and any(count > _MOST_SLICES or count & (count - 1) for count in sharing):
        return 0
    return channels


def _is_aligned(image: Tensor) -> bool:
    """Return whether channels are neighbors and every pixel begins at a multiple of 16 channels."""
    strides = (step for axis, step in enumerate(image.stride()) if axis != 1 and image.shape[axis] > 1)
    return is_channels_last(image) and image.data_ptr() % _VECTOR_BYTES == 0 and all(step % _ALIGNED == 0 for step in strides)


def _block_of(groups: ChannelGroups, channels_last: bool) -> tuple[int, int]:
    """Return the channel groups of a tile and the channels of each: many channels where these are neighbors, else few."""
    channels = min(_power_of_two(groups.channels), _BLOCK_CHANNELS)
    count = max((_BLOCK_CHANNELS if channels_last else _LEAST) // channels, 1)
    if channels < groups.channels:
        count = 1
    # a tile holds whole groups of one channel group, or lies within one of several
    sharing = gcd(*(several for several in (groups.per_kernel, groups.per_offset) if several > 1))
    return min(count, sharing & -sharing if sharing else _power_of_two(groups.number)), channels


def _positions_of(x: Tensor, channels: int) -> int:
    """Return the positions of a tile that has ``channels`` channels."""
    tile = _TILE_BYTES // x.element_size()
    return max((tile if is_channels_last(x) else min(tile, _PLANAR_TILE)) // channels, 1)


def _is_one(values: Tensor | None, geometry: Geometry) -> bool:
    """Return whether values at windows are the same at every one of several positions."""
    return values is not None and tuple(values.shape[-2:]) == (1, 1) != geometry.output


def _power_of_two(size: int) -> int:
    """Return the next power of two."""
    return 1 << max(size - 1, 0).bit_length()


def _largest_span(call: Call, output: Tensor) -> Any:
    """Return the most elements between the first and the last address of one image, of whatever is read or written."""
    read = [tensor for tensor in (call.x, call.stored_kernel, call.offsets, output) if tensor is not None]
    written = [call.output_shape(), *(tensor.shape for tensor in read)]
    if call.offsets is not None:  # the gradient of all samples, where it is not added up at once
        written.append((1, call.x.shape[1], call.geometry.taps, *call.geometry.output))
    spans = [sum((n - 1) * step for n, step in zip(t.shape[1:], t.stride()[1:], strict=True)) + 1 for t in read]
    return max(*spans, *(prod(shape[1:]) for shape in written))
