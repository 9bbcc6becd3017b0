"""The gradients of kernels and offsets, and of an image that offsets read.

A program has a tile of windows, reads its gradient once, and goes through the taps.
"""

# mypy: ignore-errors

from typing import Any, NamedTuple

import triton
import triton.language as tl

from unified_extractor.ops.backends.triton.mixing import pulled
from unified_extractor.ops.backends.triton.reading import blended, cell_of, corners_of, is_pixel, place_of, regular, slopes
from unified_extractor.ops.backends.triton.tiles import (
    Program,
    across,
    addresses,
    at_positions,
    at_units,
    at_windows,
    channels_of,
    chosen,
    combined,
    field,
    of_image,
    program,
    static_weights,
    sum_over_members,
    sum_over_positions,
    wide,
    windows_of,
    write_at_windows,
    zeros,
)
from unified_extractor.ops.backends.triton.tuning import tuned


class Inputs(NamedTuple):
    """What the gradients are made from: images, fields, and the static kernel as ``[K, C/groups, O]``."""

    gradient: Any
    x: Any
    static: Any
    dynamic: Any
    offsets: Any


class Gradients(NamedTuple):
    """Where they go; without data where they are not wanted."""

    x: Any
    """Added to."""
    columns: Any
    """Of what every tap reads, ``[B, C, K, Ho, Wo]``."""
    static: Any
    """Shares of a static kernel of which each channel has its own, ``[B, programs of an image, K, C]``."""
    dynamic: Any
    offsets: Any
    """Fields with shares."""


@tuned(
    {"num_warps": 4, "maxnreg": 240},
    {"num_warps": 8, "maxnreg": 168},
    {"num_warps": 8, "num_stages": 1, "maxnreg": 168},
    {"num_warps": 8, "num_stages": 4},
)
@triton.jit(do_not_specialize=["TUNED_FOR"])
def backward(
    gradient,
    x,
    static,
    dynamic,
    offsets,
    of_x,
    of_columns,
    of_static,
    of_dynamic,
    of_offsets,
    sizes,
    plan: tl.constexpr,
    STEPS: tl.constexpr,
    X: tl.constexpr,
    TUNED_FOR,
):
    """The gradients that have somewhere to go. A program has STEPS tiles of windows one after the other; X: the image's is among them."""
    inputs = Inputs(gradient, x, static, dynamic, offsets)
    gradients = Gradients(of_x, of_columns, of_static, of_dynamic, of_offsets)
    tiles = tl.cdiv(sizes.rows * sizes.columns, plan.tile_positions)
    programs = tl.cdiv(tiles, STEPS)
    place = program(programs, plan.blocks, plan)
    share = place.batch * programs + place.tile
    for step in range(STEPS):
        here = Program(place.batch, place.block, place.tile * STEPS + step)
        channels, windows = channels_of(here.block, plan), windows_of(here.tile, plan.tile_positions, sizes, plan)
        tl.debug_barrier()  # what another thread of this program wrote into the share is read next
        for i in range(plan.rows):
            for j in range(plan.columns):
                of_tap(inputs, gradients, i, j, here, tiles, share, step, windows, channels, sizes, plan, X)


@triton.jit
def of_tap(inputs, gradients, i, j, place, tiles, share, step, windows, channels, sizes, plan: tl.constexpr, X: tl.constexpr):
    """A tile's part of the gradients by tap (i, j)."""
    tap = i * plan.columns + j
    image, start = of_image(inputs.x, place.batch), of_image(inputs.gradient, place.batch)
    if plan.moved:
        moves = of_image(inputs.offsets, place.batch)
        cell = cell_of(inputs.offsets, moves, i, j, windows, channels, sizes, plan)
        corners = corners_of(inputs.x, image, cell, channels, sizes, plan)
        value = blended(cell, corners, plan)
    else:
        value = regular(inputs.x, image, i, j, windows, channels, sizes, plan)
    static = static_weights(inputs.static, tap, channels, plan) if plan.static == "each" else 1.0
    of_value, of_static = zeros(plan.tile_positions, plan), zeros(plan.tile_positions, plan)
    for result in range(plan.results):
        if plan.aggregation == "fold":
            row, column = result // plan.columns, result % plan.columns
            output = regular(inputs.gradient, start, row, column, windows, channels, sizes, plan)
        elif plan.static == "mixing":
            output = pulled(inputs.gradient, start, inputs.static, tap, windows, channels, plan)
        else:
            output = at_windows(inputs.gradient, start, tap, windows, channels, plan)
        product = output * value
        if plan.dynamic:
            kernel = of_image(inputs.dynamic, place.batch)
            pair = field(inputs.dynamic, kernel, result, tap, windows, channels, plan.kernel_units, plan)
            dynamic = across(pair, plan)
            of_value += output * (combined(static, dynamic, plan) if plan.static == "each" else dynamic)
            of_static += product * by_static(dynamic, plan)
        else:
            of_value += output * static
            of_static += product
        if gradients.dynamic.data is not None:
            of_kernel = sum_over_members(product * by_dynamic(static, plan), plan)
            add_share(gradients.dynamic, place, tiles, result, tap, of_kernel, windows, channels, plan, False)
    if gradients.static is not None:
        add_static_share(gradients.static, share, step, tap, sum_over_positions(of_static, plan), channels, plan)
    if plan.moved:
        if gradients.offsets.data is not None:
            by_row, by_column = slopes(cell, corners, plan)
            by_row = tl.where(cell.inside, sum_over_members(of_value * by_row, plan), 0.0)
            by_column = tl.where(cell.inside, sum_over_members(of_value * by_column, plan), 0.0)
            add_share(gradients.offsets, place, tiles, 0, tap, by_row, windows, channels, plan, True)
            add_share(gradients.offsets, place, tiles, 1, tap, by_column, windows, channels, plan, True)
        if X:
            add_to_image(gradients.x, of_image(gradients.x, place.batch), cell, of_value, channels, sizes, plan)
        if gradients.columns.data is not None:
            write_at_windows(gradients.columns, of_image(gradients.columns, place.batch), tap, windows, channels, of_value, plan)


@triton.jit
def by_dynamic(static, plan):
    """The derivative of a tap's weight by that of the dynamic kernel."""
    return 1.0 if plan.combine == "add" else static


@triton.jit
def by_static(dynamic, plan):
    """The derivative of a tap's weight by that of the static kernel."""
    if plan.combine == "add":
        factor = 1.0
    elif plan.combine == "residual":
        factor = 1.0 + dynamic
    else:
        factor = dynamic
    return factor


@triton.jit
def add_share(target, place, tiles, part, tap, pair, windows, channels, plan, OFFSETS: tl.constexpr):
    """Write a tile's share of a gradient that channels of a group, and perhaps all positions, have in common.

    The gradient is that of the offsets or of the dynamic kernel. Shares of different tiles lie apart: they are summed later, always in
    one order.
    """
    group_units: tl.constexpr = plan.offset_units if OFFSETS else plan.kernel_units
    tiles_of_a_group: tl.constexpr = plan.offset_tiles if OFFSETS else plan.kernel_tiles
    everywhere: tl.constexpr = plan.one_offset if OFFSETS else plan.one_kernel
    if group_units > 1:
        pair = tl.sum(pair, 1 if plan.channels_last else 0, keep_dims=True)
        index = channels.first // group_units + tl.zeros([1], tl.int32)
        exist = index >= 0
    else:
        index, exist = channels.unit, channels.is_unit
    group, mask = at_units(index * target.group, plan), at_units(exist, plan)
    share = place.block % tiles_of_a_group
    if everywhere:
        pair = tl.sum(pair, 0 if plan.channels_last else 1, keep_dims=True)
        share = share * tiles + place.tile
        address, mask = group, mask & at_units(place.tile + tl.zeros_like(index) < tiles, plan)
    else:
        address = at_positions(windows.row * target.row + windows.column * target.column, plan) + group
        mask = at_positions(windows.exist, plan) & mask
    address += wide(part, plan) * target.part + wide(tap, plan) * target.tap
    tl.store(of_image(target, place.batch) + share.to(tl.int64) * target.share + address, pair, mask=mask)


@triton.jit
def add_static_share(target, share, step, tap, weights, channels, plan):
    """Add ``[U, N]`` to a program's share of the static kernel's gradient."""
    channel = channels.unit[:, None] * plan.unit + channels.member[None, :]
    pointers = target + (share * plan.taps + tap) * (plan.units * plan.unit) + channel
    mask = channels.is_unit[:, None] & channels.is_member[None, :]
    if step > 0:
        weights += tl.load(pointers, mask=mask, other=0.0)
    tl.store(pointers, weights, mask=mask)


@triton.jit
def add_to_image(target, start, cell, value, channels, sizes, plan):
    """Add a tile to the four pixels around its positions, weighed as they were read."""
    below, right = across(cell.below, plan), across(cell.right, plan)
    upper, lower = (1.0 - below) * value, below * value
    add_to_corner(target, start, cell, 0, 0, (1.0 - right) * upper, channels, sizes, plan)
    add_to_corner(target, start, cell, 0, 1, right * upper, channels, sizes, plan)
    add_to_corner(target, start, cell, 1, 0, (1.0 - right) * lower, channels, sizes, plan)
    add_to_corner(target, start, cell, 1, 1, right * lower, channels, sizes, plan)


@triton.jit
def add_to_corner(target, start, cell, below, right, value, channels, sizes, plan):
    """Add a tile to a corner of every position, in float32 and in no particular order."""
    mask = chosen(is_pixel(cell, below, right, sizes), channels, plan)
    place = addresses(target, place_of(target, cell, below, right), channels, plan)
    tl.atomic_add(start + place, value, mask=mask, sem="relaxed")
