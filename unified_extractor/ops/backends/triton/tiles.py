"""What the kernels share: which tile a program works on, how its three axes meet, and reading and writing one.

A *tile* has three axes, positions P, units U and channels of a unit N. What the channels of a unit share (a position moved by offsets, a
weight of the dynamic kernel) lives on the first two, a *pair*, and is spread over the third when it meets pixels.
"""

# mypy: ignore-errors

from typing import Any, NamedTuple

import triton
import triton.language as tl


class Program(NamedTuple):
    """A program's place: image, block of channels, tile of positions."""

    batch: Any
    block: Any
    tile: Any


class Channels(NamedTuple):
    """A block of channels: channel ``unit * N + member``."""

    first: Any
    """The first unit."""
    start: Any
    """The first member."""
    unit: Any
    """``[U]``."""
    member: Any
    """``[N]``."""
    is_unit: Any
    is_member: Any
    """False where the tile is larger than what is left."""


class Windows(NamedTuple):
    """Windows of a tile, ``[P]`` each."""

    row: Any
    column: Any
    exist: Any


@triton.jit
def program(tiles, blocks, plan):
    """This program's place. Neighbours share what they read: pixels across channels, or rows of one channel."""
    index = tl.program_id(0)
    if plan.channels_last:
        block, rest = index % blocks, index // blocks
        tile, batch = rest % tiles, rest // tiles
    else:
        tile, rest = index % tiles, index // tiles
        block, batch = rest % blocks, rest // blocks
    return Program(batch.to(tl.int64), block, tile)


@triton.jit
def channels_of(block, plan):
    """The channels of a block."""
    first, start = block // plan.chunks * plan.tile_units, block % plan.chunks * plan.tile_unit
    unit, member = first + tl.arange(0, plan.tile_units), start + tl.arange(0, plan.tile_unit)
    return Channels(first, start, wide(unit, plan), wide(member, plan), unit < plan.units, member < plan.unit)


@triton.jit
def windows_of(tile, positions, sizes, plan):
    """The windows of a tile of so many positions."""
    place = tile * positions + tl.arange(0, positions)
    exist = place < sizes.rows * sizes.columns
    return Windows(wide(place // sizes.columns, plan), wide(place % sizes.columns, plan), exist)


@triton.jit
def wide(index, plan):
    """An index that may be multiplied by a stride."""
    return tl.cast(index, tl.int64) if plan.wide else index


@triton.jit
def precise(value):
    """In the precision of sums."""
    return value if value.dtype == tl.float64 else value.to(tl.float32)


@triton.jit
def zeros(positions, plan):
    """A tile of zeros."""
    dtype = tl.float64 if plan.dtype == "float64" else tl.float32
    if plan.channels_last:
        tile = tl.zeros([positions, plan.tile_units, plan.tile_unit], dtype)
    else:
        tile = tl.zeros([plan.tile_units, plan.tile_unit, positions], dtype)
    return tile


@triton.jit
def at_positions(vector, plan):
    """``[P]`` as a pair."""
    return vector[:, None] if plan.channels_last else vector[None, :]


@triton.jit
def at_units(vector, plan):
    """``[U]`` as a pair."""
    return vector[None, :] if plan.channels_last else vector[:, None]


@triton.jit
def at_members(vector, plan):
    """``[N]`` as a tile."""
    return vector[None, None, :] if plan.channels_last else vector[None, :, None]


@triton.jit
def across(pair, plan):
    """A pair as a tile."""
    return tl.expand_dims(pair, 2 if plan.channels_last else 1)


@triton.jit
def everywhere(weights, plan):
    """``[U, N]`` as a tile."""
    return tl.expand_dims(weights, 0 if plan.channels_last else 2)


@triton.jit
def sum_over_members(tile, plan):
    """A tile's pair."""
    return tl.sum(tile, 2 if plan.channels_last else 1)


@triton.jit
def sum_over_positions(tile, plan):
    """``[U, N]``."""
    return tl.sum(tile, 0 if plan.channels_last else 2)


@triton.jit
def of_image(image, batch):
    """Where an image of the batch begins, if there are any."""
    return batch if image.data is None else image.data + batch * image.batch


@triton.jit
def addresses(image, place, channels, plan):
    """Where the channels of the pixels at ``place`` (a pair) lie inside an image."""
    pair = place + at_units(channels.unit * (plan.unit * image.channel), plan)
    return across(pair, plan) + at_members(channels.member * image.channel, plan)


@triton.jit
def chosen(exist, channels, plan):
    """Which of a tile's values exist, from a pair that says it of positions."""
    return across(exist & at_units(channels.is_unit, plan), plan) & at_members(channels.is_member, plan)


@triton.jit
def pixels(image, start, place, exist, channels, plan):
    """A tile of pixels, zero where none exist."""
    pointers = start + addresses(image, place, channels, plan)
    return precise(tl.load(pointers, mask=chosen(exist, channels, plan), other=0.0))


@triton.jit
def at_windows(image, start, tap, windows, channels, plan):
    """What an image of windows, ``[B, C, (K,) Ho, Wo]``, holds for these."""
    place = at_positions(windows.row * image.row + windows.column * image.column, plan) + wide(tap, plan) * image.tap
    return pixels(image, start, place, at_positions(windows.exist, plan), channels, plan)


@triton.jit
def write_at_windows(image, start, tap, windows, channels, tile, plan):
    """The inverse of :func:`at_windows`."""
    place = at_positions(windows.row * image.row + windows.column * image.column, plan) + wide(tap, plan) * image.tap
    mask = chosen(at_positions(windows.exist, plan), channels, plan)
    tl.store(start + addresses(image, place, channels, plan), tile, mask=mask)


@triton.jit
def of_field(values, part, tap, windows, channels, group_units, plan):
    """Where a field's values for windows and groups of channels lie in an image, and which exist; pairs."""
    place = at_positions(windows.row * values.row + windows.column * values.column, plan)
    place += at_units(channels.unit // group_units * values.group, plan)
    place += wide(part, plan) * values.part + wide(tap, plan) * values.tap
    return place, at_positions(windows.exist, plan) & at_units(channels.is_unit, plan)


@triton.jit
def field(values, start, part, tap, windows, channels, group_units, plan):
    """A pair: what windows and groups of channels hold."""
    place, exist = of_field(values, part, tap, windows, channels, group_units, plan)
    return precise(tl.load(start + place, mask=exist, other=0.0))


@triton.jit
def static_weights(static, tap, channels, plan):
    """A tile, the same at all positions: the static kernel ``[K, 1, C]`` at one tap."""
    channel = channels.unit[:, None] * plan.unit + channels.member[None, :]
    exist = channels.is_unit[:, None] & channels.is_member[None, :]
    weights = tl.load(static + tap * (plan.units * plan.unit) + channel, mask=exist, other=0.0)
    return everywhere(precise(weights), plan)


@triton.jit
def combined(static, dynamic, plan):
    """The weight of a tap, from those of both kernels."""
    if plan.combine == "add":
        weight = static + dynamic
    elif plan.combine == "residual":
        weight = static * (1.0 + dynamic)
    else:
        weight = static * dynamic
    return weight


@triton.jit
def weighed(value, kernel, static, tap, channels, plan):
    """A tile times the weights of both kernels; ``kernel``: the dynamic one's, a pair, if there is one."""
    if plan.dynamic:
        weight = across(kernel, plan)
        if plan.static == "each":
            weight = combined(static_weights(static, tap, channels, plan), weight, plan)
        value = value * weight
    elif plan.static == "each":
        value = value * static_weights(static, tap, channels, plan)
    return value
