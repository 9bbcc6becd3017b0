"""The gradients of kernels and offsets, and of an image that offsets read.

A program has a tile of windows, reads its gradient once, and goes through the taps.
"""

# mypy: ignore-errors

import triton
import triton.language as tl

from unified_extractor.ops.backends.triton.eights import write_eight
from unified_extractor.ops.backends.triton.mixing import pulled
from unified_extractor.ops.backends.triton.reading import blended, cell_of, corners_of, is_pixel, place_of, regular, slopes
from unified_extractor.ops.backends.triton.tiles import (
    across,
    addresses,
    at_positions,
    at_units,
    at_windows,
    channels_of,
    chosen,
    combined,
    field,
    of_field,
    of_image,
    program,
    static_weights,
    sum_over_members,
    sum_over_positions,
    wide,
    windows_of,
    zeros,
)
from unified_extractor.ops.backends.triton.tuning import tuned


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
    share = place.block % tiles_of_a_group
    if everywhere:
        pair = tl.sum(pair, 0 if plan.channels_last else 1, keep_dims=True)
        share = share * tiles + place.tile
        address, mask = at_units(index * target.group, plan), at_units(exist, plan)
    else:
        address = at_positions(windows.row * target.row + windows.column * target.column, plan) + at_units(
            index * target.group, plan
        )
        mask = at_positions(windows.exist, plan) & at_units(exist, plan)
    address += wide(part, plan) * target.part + wide(tap, plan) * target.tap
    tl.store(of_image(target, place.batch) + share.to(tl.int64) * target.share + address, pair, mask=mask)


@triton.jit
def add_to_corner(target, start, cell, below, right, value, channels, sizes, plan):
    """Add a tile to a corner of every position, in float32 and in no particular order."""
    mask = chosen(is_pixel(cell, below, right, sizes), channels, plan)
    place = addresses(target, place_of(target, cell, below, right), channels, plan)
    tl.atomic_add(start + place, value, mask=mask, sem="relaxed")


@tuned({"num_warps": 4}, {"num_warps": 8})
@triton.jit
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
    STATIC: tl.constexpr,
    DYNAMIC: tl.constexpr,
    OFFSETS: tl.constexpr,
    X: tl.constexpr,
    COLUMNS: tl.constexpr,
    TUNED_FOR: tl.constexpr,
):
    """The gradients that the switches ask for; ``columns`` is that of what every tap read, ``[B, C, K, Ho, Wo]``."""
    tiles = tl.cdiv(sizes.rows * sizes.columns, plan.tile_positions)
    place = program(tiles, plan.blocks, plan)
    channels, windows = channels_of(place.block, plan), windows_of(place.tile, plan.tile_positions, sizes, plan)
    start, image = of_image(gradient, place.batch), of_image(x, place.batch)
    kernel, moves = of_image(dynamic, place.batch), of_image(offsets, place.batch)
    if plan.aggregation == "gather" and plan.static != "mixing":
        output = at_windows(gradient, start, 0, windows, channels, plan)
    for i in range(plan.rows):
        for j in range(plan.columns):
            tap = i * plan.columns + j
            if plan.moved:
                cell = cell_of(offsets, moves, i, j, windows, channels, sizes, plan)
                corners = corners_of(x, image, cell, channels, sizes, plan)
                value = blended(cell, corners, plan)
            else:
                value = regular(x, image, i, j, windows, channels, sizes, plan)
            if plan.static == "each":
                weight = static_weights(static, tap, channels, plan)
            of_value, of_weight = zeros(plan.tile_positions, plan), zeros(plan.tile_positions, plan)
            for result in range(plan.results):
                if plan.aggregation == "fold":
                    output = regular(
                        gradient, start, result // plan.columns, result % plan.columns, windows, channels, sizes, plan
                    )
                elif plan.aggregation == "unfold":
                    output = at_windows(gradient, start, tap, windows, channels, plan)
                elif plan.static == "mixing":
                    output = pulled(gradient, start, static, tap, windows, channels, plan)
                product, pull = output * value, output
                of_kernel = product
                if plan.dynamic:
                    shared = across(field(dynamic, kernel, result, tap, windows, channels, plan.kernel_units, plan), plan)
                    if plan.static == "each":
                        pull = output * combined(weight, shared, plan)
                        if plan.combine == "multiply":
                            of_kernel, product = product * weight, product * shared
                        elif plan.combine == "residual":
                            of_kernel, product = product * weight, product * (1.0 + shared)
                    else:
                        pull = output * shared
                elif plan.static == "each":
                    pull = output * weight
                    of_kernel = product * weight
                of_value += pull
                of_weight += product
                if DYNAMIC:
                    of_kernel = sum_over_members(of_kernel, plan)
                    add_share(of_dynamic, place, tiles, result, tap, of_kernel, windows, channels, plan, False)
            if STATIC:
                share = sum_over_positions(of_weight, plan)
                channel = channels.unit[:, None] * plan.unit + channels.member[None, :]
                first = ((place.batch * tiles + place.tile) * plan.taps + tap) * (plan.units * plan.unit)
                tl.store(of_static + first + channel, share, mask=channels.is_unit[:, None] & channels.is_member[None, :])
            if plan.moved:
                if OFFSETS:
                    by_row, by_column = slopes(cell, corners, plan)
                    by_row = tl.where(cell.inside, sum_over_members(of_value * by_row, plan), 0.0)
                    by_column = tl.where(cell.inside, sum_over_members(of_value * by_column, plan), 0.0)
                    add_share(of_offsets, place, tiles, 0, tap, by_row, windows, channels, plan, True)
                    add_share(of_offsets, place, tiles, 1, tap, by_column, windows, channels, plan, True)
                if X:
                    target = of_image(of_x, place.batch)
                    below, right = across(cell.below, plan), across(cell.right, plan)
                    upper, lower = (1.0 - below) * of_value, below * of_value
                    add_to_corner(of_x, target, cell, 0, 0, (1.0 - right) * upper, channels, sizes, plan)
                    add_to_corner(of_x, target, cell, 0, 1, right * upper, channels, sizes, plan)
                    add_to_corner(of_x, target, cell, 1, 0, (1.0 - right) * lower, channels, sizes, plan)
                    add_to_corner(of_x, target, cell, 1, 1, right * lower, channels, sizes, plan)
                if COLUMNS:
                    where = at_positions(windows.row * of_columns.row + windows.column * of_columns.column, plan)
                    mask = chosen(at_positions(windows.exist, plan), channels, plan)
                    where = addresses(of_columns, where + wide(tap, plan) * of_columns.tap, channels, plan)
                    tl.store(of_image(of_columns, place.batch) + where, of_value, mask=mask)


@tuned({"num_warps": 4}, {"num_warps": 8})
@triton.jit
def kernel_gradient(gradient, x, of_dynamic, sizes, plan: tl.constexpr, TUNED_FOR: tl.constexpr):
    """The gradient of a dynamic kernel alone, on the regular grid: products of the output's gradient with the taps, eight at once."""
    place = program(tl.cdiv(sizes.rows * sizes.columns, plan.tile_positions), plan.blocks, plan)
    channels, windows = channels_of(place.block, plan), windows_of(place.tile, plan.tile_positions, sizes, plan)
    image, start = of_image(x, place.batch), of_image(of_dynamic, place.batch)
    output = at_windows(gradient, of_image(gradient, place.batch), 0, windows, channels, plan)
    whole: tl.constexpr = plan.taps // 8 * 8
    for first in range(0, whole, 8):
        eight = (
            tap_product(output, x, image, first, windows, channels, sizes, plan),
            tap_product(output, x, image, first + 1, windows, channels, sizes, plan),
            tap_product(output, x, image, first + 2, windows, channels, sizes, plan),
            tap_product(output, x, image, first + 3, windows, channels, sizes, plan),
            tap_product(output, x, image, first + 4, windows, channels, sizes, plan),
            tap_product(output, x, image, first + 5, windows, channels, sizes, plan),
            tap_product(output, x, image, first + 6, windows, channels, sizes, plan),
            tap_product(output, x, image, first + 7, windows, channels, sizes, plan),
        )
        write_eight(of_dynamic, start, 0, first, windows, channels, 1, eight, plan)
    for tap in tl.static_range(whole, plan.taps):
        pair = tap_product(output, x, image, tap, windows, channels, sizes, plan)
        where, exist = of_field(of_dynamic, 0, tap, windows, channels, 1, plan)
        tl.store(start + where, pair, mask=exist)


@triton.jit
def tap_product(output, x, image, tap, windows, channels, sizes, plan):
    """A tap's products with the output's gradient, summed over the channels of a unit: a pair."""
    value = regular(x, image, tap // plan.columns, tap % plan.columns, windows, channels, sizes, plan)
    return sum_over_members(output * value, plan)


@tuned({"num_warps": 1}, {"num_warps": 2})
@triton.jit
def collect(columns, weights, order, begins, y, sizes, plan: tl.constexpr, TUNED_FOR: tl.constexpr):
    """The image's gradient from that of the columns, without atomics: each pixel sums what read it, in the order of taps and windows.

    ``weights``, ``order`` ``[B, F, 4*K*P]``: the bilinear weights of all corners of all reads, and the corners sorted by their pixel;
    ``begins`` ``[B, F, H*W + 1]``: where each pixel's corners begin in that order. One pixel and block of channels a program.
    """
    blocks: tl.constexpr = plan.units * plan.chunks
    pixels, positions = sizes.height * sizes.width, sizes.rows * sizes.columns
    index = tl.program_id(0)
    block, rest = index % blocks, index // blocks
    pixel, batch = rest % pixels, (rest // pixels).to(tl.int64)
    unit, start = (block // plan.chunks).to(tl.int64), block % plan.chunks * plan.tile_unit
    member = start + tl.arange(0, plan.tile_unit)
    mask = member < plan.unit
    group = batch * (plan.units // plan.offset_units) + unit // plan.offset_units
    first, last = tl.load(begins + group * (pixels + 1) + pixel), tl.load(begins + group * (pixels + 1) + pixel + 1)
    corners = group * tl.cast(4 * plan.taps * positions, tl.int64)
    channel = (unit * plan.unit + member) * columns.channel
    total = tl.zeros([plan.tile_unit], tl.float64 if plan.dtype == "float64" else tl.float32)
    for entry in range(first, last):
        corner = tl.load(order + corners + entry)
        tap, position = corner % (plan.taps * positions) // positions, corner % positions
        place = tap * columns.tap + position // sizes.columns * columns.row + position % sizes.columns * columns.column
        value = tl.load(of_image(columns, batch) + channel + place, mask=mask, other=0.0)
        total += value * tl.load(weights + corners + corner)
    where = (unit * plan.unit + member) * y.channel + pixel // sizes.width * y.row + pixel % sizes.width * y.column
    tl.store(of_image(y, batch) + where, total, mask=mask)
