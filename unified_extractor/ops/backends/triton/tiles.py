"""Tiles: which one a program works on, how its three axes meet, and how it is read and written.

A *tile* has three axes: positions P, channel groups J, and channels of a group N. A *channel group* is the channels that share every
group of the call: dynamic kernel, offsets and convolution. What they share, a sampling position or a weight of the dynamic kernel, is a
*group tile*: it has the first two axes alone and is repeated over the third where it meets pixels. A *block* is the channels of a tile.
"""

# mypy: ignore-errors

from typing import Any, NamedTuple

import triton
import triton.language as tl


class Program(NamedTuple):
    """The place of a program in the grid: image, block of channels, tile of positions."""

    batch: Any
    block: Any
    tile: Any


class Channels(NamedTuple):
    """A block of channels; channel ``n`` of group ``j`` is channel ``j * N + n`` of the image."""

    first_group: Any
    first_member: Any
    """First channel of the block inside its group."""
    group: Any
    """Indices of channel groups, ``[J]``."""
    member: Any
    """Indices of channels inside their group, ``[N]``."""
    is_group: Any
    is_member: Any
    """False where the tile is larger than what is left."""


class Windows(NamedTuple):
    """Output positions of a tile, ``[P]`` each."""

    row: Any
    column: Any
    exist: Any


@triton.jit
def this_program(tiles, blocks, plan):
    """Return the place of this program. Neighbors share what they read: pixels across channels, or rows of one channel."""
    index = tl.program_id(0)
    if plan.channels_last:
        block, rest = index % blocks, index // blocks
        tile, batch = rest % tiles, rest // tiles
    else:
        tile, rest = index % tiles, index // tiles
        block, batch = rest % blocks, rest // blocks
    return Program(batch.to(tl.int64), block, tile)


@triton.jit
def channels_of_block(block, plan):
    """Return the channels of a block."""
    first_group = block // plan.group_blocks * plan.tile_channel_groups
    first_member = block % plan.group_blocks * plan.tile_group_channels
    group, member = first_group + tl.arange(0, plan.tile_channel_groups), first_member + tl.arange(0, plan.tile_group_channels)
    is_group, is_member = group < plan.channel_groups, member < plan.group_channels
    return Channels(first_group, first_member, as_index(group, plan), as_index(member, plan), is_group, is_member)


@triton.jit
def windows_of_tile(tile, positions, sizes, plan):
    """Return the windows of a tile that has ``positions`` positions."""
    place = tile * positions + tl.arange(0, positions)
    exist = place < sizes.output_height * sizes.output_width
    return Windows(as_index(place // sizes.output_width, plan), as_index(place % sizes.output_width, plan), exist)


@triton.jit
def as_index(index, plan):
    """Return an index that may be multiplied by a stride: 64 bits where addresses need them."""
    return tl.cast(index, tl.int64) if plan.wide else index


@triton.jit
def precise(value):
    """Return values in the precision of sums, at least float32."""
    return value if value.dtype == tl.float64 else value.to(tl.float32)


@triton.jit
def zeros(positions, plan):
    """Return a tile of zeros."""
    dtype = tl.float64 if plan.dtype == "float64" else tl.float32
    if plan.channels_last:
        tile = tl.zeros([positions, plan.tile_channel_groups, plan.tile_group_channels], dtype)
    else:
        tile = tl.zeros([plan.tile_channel_groups, plan.tile_group_channels, positions], dtype)
    return tile


@triton.jit
def at_positions(vector, plan):
    """Return a vector over positions, ``[P]``, with the axes of a group tile."""
    return vector[:, None] if plan.channels_last else vector[None, :]


@triton.jit
def at_groups(vector, plan):
    """Return a vector over channel groups, ``[J]``, with the axes of a group tile."""
    return vector[None, :] if plan.channels_last else vector[:, None]


@triton.jit
def at_members(vector, plan):
    """Return a vector over the channels of a group, ``[N]``, with the axes of a tile."""
    return vector[None, None, :] if plan.channels_last else vector[None, :, None]


@triton.jit
def over_members(group_tile, plan):
    """Return a group tile with the axes of a tile, to be repeated for the channels of each group."""
    return tl.expand_dims(group_tile, 2 if plan.channels_last else 1)


@triton.jit
def over_positions(weights, plan):
    """Return weights of channels, ``[J, N]``, with the axes of a tile, to be repeated at every position."""
    return tl.expand_dims(weights, 0 if plan.channels_last else 2)


@triton.jit
def sum_over_members(tile, plan):
    """Return the sum over the channels of each group, a group tile."""
    return tl.sum(tile, 2 if plan.channels_last else 1)


@triton.jit
def sum_over_positions(tile, plan):
    """Return the sum over positions, ``[J, N]``."""
    return tl.sum(tile, 0 if plan.channels_last else 2)


@triton.jit
def start_of(image, batch):
    """Return the address at which an image of the batch begins, or any number where there is no tensor."""
    return batch if image.data is None else image.data + batch * image.batch


@triton.jit
def pointers_to(image, start, place, channels, plan):
    """Return the pointers to the channels of the pixels at ``place``, a group tile, of the image that begins at ``start``.

    The compiler lays the threads of a warp along the axes of a tile by how many neighbors in memory an index has along each. Between two
    axes without any, versions up to 3.6 take the first, positions, and each line of the cache would be loaded by halves. So it is told
    that groups are the nearer ones: there is nothing else for which it asks how near they are, since no thread loads across groups.
    """
    group_tile = place + at_groups(channels.group * (plan.group_channels * image.channel), plan)
    pointers = start + (over_members(group_tile, plan) + at_members(channels.member * image.channel, plan))
    if plan.channels_last and plan.tile_channel_groups > 1 and plan.tile_group_channels > 1 and not plan.interpreted:
        if isinstance(image.channel, int):  # a stride of one is compiled in, any other is a value of the launch
            pointers = tl.max_contiguous(pointers, [1, 2, plan.tile_group_channels])
    return pointers


@triton.jit
def mask_of(exist, channels, plan):
    """Return which values of a tile exist, from a group tile that says it of positions."""
    return over_members(exist & at_groups(channels.is_group, plan), plan) & at_members(channels.is_member, plan)


@triton.jit
def load_pixels(image, start, place, exist, channels, plan):
    """Return a tile of pixels, zero where none exist."""
    pointers = pointers_to(image, start, place, channels, plan)
    return precise(tl.load(pointers, mask=mask_of(exist, channels, plan), other=0.0))


@triton.jit
def load_at_windows(image, start, tap, windows, channels, plan):
    """Return a tile of an image that has a value for each window, ``[B, C, (K,) Ho, Wo]``."""
    place = at_positions(windows.row * image.row + windows.column * image.column, plan) + as_index(tap, plan) * image.tap
    return load_pixels(image, start, place, at_positions(windows.exist, plan), channels, plan)


@triton.jit
def store_at_windows(image, start, tap, windows, channels, tile, plan):
    """Write a tile where :func:`load_at_windows` would read it."""
    place = at_positions(windows.row * image.row + windows.column * image.column, plan) + as_index(tap, plan) * image.tap
    mask = mask_of(at_positions(windows.exist, plan), channels, plan)
    tl.store(pointers_to(image, start, place, channels, plan), tile, mask=mask)


@triton.jit
def group_addresses(values, component, tap, windows, channels, groups_sharing, plan):
    """Return where values shared by channels lie inside an image, and which exist: two group tiles.

    ``groups_sharing``: how many channel groups share a value, one or more.
    """
    place = at_positions(windows.row * values.row + windows.column * values.column, plan)
    place += at_groups(channels.group // groups_sharing * values.group, plan)
    place += as_index(component, plan) * values.component + as_index(tap, plan) * values.tap
    return place, at_positions(windows.exist, plan) & at_groups(channels.is_group, plan)


@triton.jit
def load_group_tile(values, start, component, tap, windows, channels, groups_sharing, plan):
    """Return the values that windows and channel groups have, a group tile."""
    place, exist = group_addresses(values, component, tap, windows, channels, groups_sharing, plan)
    return precise(tl.load(start + place, mask=exist, other=0.0))


@triton.jit
def load_depthwise(static_kernel, tap, channels, plan):
    """Return one tap of a depthwise static kernel ``[K, 1, C]``, a tile with the same weights at all positions."""
    channel = channels.group[:, None] * plan.group_channels + channels.member[None, :]
    exist = channels.is_group[:, None] & channels.is_member[None, :]
    pointers = static_kernel + tap * (plan.channel_groups * plan.group_channels) + channel
    return over_positions(precise(tl.load(pointers, mask=exist, other=0.0)), plan)


@triton.jit
def combine(static_weight, dynamic_weight, plan):
    """Return the weight of a tap from those of both kernels."""
    if plan.combine == "add":
        weight = static_weight + dynamic_weight
    elif plan.combine == "residual":
        weight = static_weight * (1.0 + dynamic_weight)
    else:
        weight = static_weight * dynamic_weight
    return weight


@triton.jit
def apply_weights(value, dynamic_weight, static_kernel, tap, channels, plan):
    """Return a tile times the weights of both kernels; ``dynamic_weight`` is a group tile if there is a dynamic kernel."""
    if plan.has_dynamic_kernel:
        weight = over_members(dynamic_weight, plan)
        if plan.static_kernel == "depthwise":
            weight = combine(load_depthwise(static_kernel, tap, channels, plan), weight, plan)
        value = value * weight
    elif plan.static_kernel == "depthwise":
        value = value * load_depthwise(static_kernel, tap, channels, plan)
    return value


@triton.jit
def load_and_apply_weights(value, static_kernel, dynamic_kernel, start, output_tap, tap, static_tap, windows, channels, plan):
    """Return a tile times the weights of both kernels at a tap."""
    if not plan.has_dynamic_kernel:
        weight = 1.0
    else:
        weight = load_group_tile(dynamic_kernel, start, output_tap, tap, windows, channels, plan.kernel_channel_groups, plan)
    return apply_weights(value, weight, static_kernel, static_tap, channels, plan)
