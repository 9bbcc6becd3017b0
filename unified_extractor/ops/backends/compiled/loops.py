"""The loops of the compiled backend, one function each, written once for every case and part of both compiled passes.

K taps, P positions, T positions in a tile, L channels (lanes) of a block. Images and kernels are memories; ``available`` is how many
positions are left, a tile at the end has fewer than T.
"""

# mypy: ignore-errors

from typing import NamedTuple

import numpy as np

from unified_extractor.ops.backends.compiled.compilation import inlined
from unified_extractor.ops.backends.compiled.registers import T
from unified_extractor.ops.backends.compiled.tables import Numbers, Table
from unified_extractor.ops.backends.compiled.vectors import (
    add,
    add_channels,
    add_positions,
    each_channel,
    each_position,
    gather,
    lanes,
    load_columns,
    load_row,
    load_tile,
    multiply,
    multiply_add,
    number,
    places,
    scatter,
    scatter_multiply_add,
    store_columns,
    store_row,
    store_tile,
    zeros,
)


class Taps(NamedTuple):
    """Where a block's taps are read at T windows."""

    source: Numbers
    places: object
    at: Table
    """What every tap adds to the places."""


@inlined
def fill(memory, count, value):
    """Write the same number ``count`` times."""
    for i in range(count):
        memory[i] = value


# Images in and out


@inlined
def load_block(image, start, stride, channels, available, edge):
    """The tile of ``channels`` rows of ``image``, ``stride`` apart; zero in missing channels and positions."""
    if channels == lanes(image) and available >= T:
        return load_columns(image, start, stride)
    fill(edge, T * lanes(image), number(image, 0))
    for c in range(channels):
        for t in range(min(T, available)):
            edge[c * T + t] = image[start + c * stride + t]
    return load_columns(edge, 0, T)


@inlined
def store_block(image, start, stride, channels, available, tile, edge):
    """The inverse of ``load_block``."""
    if channels == lanes(image) and available >= T:
        store_columns(image, start, stride, tile)
    else:
        store_columns(edge, 0, T, tile)
        for c in range(channels):
            for t in range(min(T, available)):
                image[start + c * stride + t] = edge[c * T + t]


@inlined
def pack(image, first, channels, pixels, canvas, canvas_places, shift, edge):
    """Copy ``channels`` planes, from plane ``first`` on, into a block's canvas at ``shift``."""
    for q in range(0, pixels, T):
        tile = load_block(image, first * pixels + q, pixels, channels, pixels - q, edge)
        scatter(canvas, places(canvas_places, q, shift), 0, tile)


@inlined
def unpack(image, first, channels, pixels, canvas, canvas_places, shift, edge):
    """The inverse of ``pack``."""
    for q in range(0, pixels, T):
        tile = gather(canvas, places(canvas_places, q, shift), 0)
        store_block(image, first * pixels + q, pixels, channels, pixels - q, tile, edge)


# Kernels and offsets in and out


@inlined
def stage(values, group, layout, p, available, rows):
    """Copy all rows of a group, at T windows from p on, to ``rows[row, t]``; zero where no window is left."""
    first = group * layout.rows * layout.size
    if layout.every and available >= T:
        for r in range(layout.rows):
            store_row(rows, r * T, load_row(values, first + r * layout.size + p))
    else:
        for r in range(layout.rows):
            for t in range(T):
                at = first + r * layout.size + layout.windows[p + t]
                rows[r * T + t] = values[at] if t < available else number(values, 0)


@inlined
def unstage(values, group, layout, p, available, rows):
    """The adjoint of ``stage``: write where every window has its own element, add where windows share."""
    first = group * layout.rows * layout.size
    if layout.every and available >= T:
        for r in range(layout.rows):
            store_row(values, first + r * layout.size + p, load_row(rows, r * T))
    else:
        for r in range(layout.rows):
            for t in range(min(T, available)):
                at = first + r * layout.size + layout.windows[p + t]
                values[at] = rows[r * T + t] if layout.every else values[at] + rows[r * T + t]


# Weighing taps


@inlined
def contract(taps, count, weights, row, static, lane, alone):
    """The tile ``sum_k weights[row + k] * static[k] * source_k``; ``alone``: 1 if there is a static kernel."""
    total = zeros(taps.source)
    for k in range(count):
        value = by_static(gather(taps.source, taps.places, taps.at[k]), k, static, lane, alone)
        total = multiply_add(each_position(weights, (row + k) * T, 1), value, total)
    return total


@inlined
def by_static(tile, k, static, lane, alone):
    """The tile times the static kernel's weights at tap k."""
    if alone == 1:
        tile = multiply(each_channel(static, lane + k * lanes(static)), tile)
    return tile


@inlined
def correlate(taps, count, gradient, static, lane, alone, weight_gradient, row):
    """Add to the weights' gradient: ``sum_c gradient * static[k] * source_k``."""
    for k in range(count):
        pulled = by_static(gradient, k, static, lane, alone)
        add_channels(weight_gradient, (row + k) * T, multiply(pulled, gather(taps.source, taps.places, taps.at[k])))


@inlined
def spread(taps, count, weights, row, gradient, static, lane, alone):
    """Add to the source's gradient: ``weights[row + k] * static[k] * gradient`` at every tap."""
    for k in range(count):
        pulled = by_static(gradient, k, static, lane, alone)
        scatter_multiply_add(taps.source, taps.places, taps.at[k], each_position(weights, (row + k) * T, 1), pulled)


@inlined
def accumulate_static(taps, count, weights, row, gradient, static_gradient, lane):
    """Add to the static kernel's gradient: ``sum_p weights[row + k] * gradient * source_k``."""
    for k in range(count):
        value = multiply(gradient, gather(taps.source, taps.places, taps.at[k]))
        add_positions(static_gradient, lane + k * lanes(taps.source), weights, (row + k) * T, 1, value)


# Mixing channels


@inlined
def matrix_product(columns, depth, panel, start):
    """The tile ``sum_j columns[j, t] * panel[j]``: ``depth`` blocks of L numbers a position, and a panel ``[depth*L, L]``.

    Each block is summed by itself first: one long sum would lose digits with its length.
    """
    L = lanes(columns)
    total = zeros(columns)
    for block in range(depth):
        part = zeros(columns)
        for lane in range(L):
            value = each_position(columns, block * T * L + lane, L)
            part = multiply_add(value, each_channel(panel, start + (block * L + lane) * L), part)
        total = add(total, part)
    return total


@inlined
def modulate(taps, count, weights, columns, first):
    """Write ``weights[k] * source_k`` to ``columns``, tap after tap."""
    for k in range(count):
        tile = multiply(each_position(weights, k * T, 1), gather(taps.source, taps.places, taps.at[k]))
        store_tile(columns, first + k * T * lanes(taps.source), tile)


@inlined
def accumulate_outer(columns, outputs, blocks, gradient, start, stride):
    """Add to a matrix's gradient, for L of its rows: ``sum_t columns[t, l] * outputs[t]``."""
    for block in range(blocks):
        tile = load_tile(outputs, block * T * lanes(columns))
        for lane in range(lanes(columns)):
            add_positions(gradient, start + lane * stride + block * lanes(columns), columns, lane, lanes(columns), tile)


# Reading between pixels


class Corners(NamedTuple):
    """Where the moved taps of T windows read, ``[K, T]``."""

    places: Table
    """Of the upper left of four pixels; the spare one for a position that is not finite or outside."""
    weights: Numbers
    """``[4, K, T]``: upper left, upper right, lower left, lower right."""
    beyond: Numbers
    """``[2, K, T]``: how far below and right of the upper left pixel."""


@inlined
def find_corners(offsets, plan, p, corners):
    """Fill the corners for T windows from p on, from staged offsets ``[K, 2, T]`` in pixels."""
    zero, one, lane_count = number(offsets, 0), number(offsets, 1), lanes(offsets)
    height, width = number(offsets, plan.height), number(offsets, plan.width)
    size = plan.taps * T
    for k in range(plan.taps):
        for t in range(T):
            y = plan.row_of[p + t] + plan.tap_row[k] + offsets[2 * k * T + t]
            x = plan.column_of[p + t] + plan.tap_column[k] + offsets[(2 * k + 1) * T + t]
            inside = (y >= -one) & (y < height) & (x >= -one) & (x < width)  # comparing nan gives false
            y = y if inside else zero
            x = x if inside else zero
            top, left = np.floor(y), np.floor(x)
            down, right = y - top, x - left
            place = (np.int64(top) + 1) * plan.image.row + (np.int64(left) + 1) * lane_count
            i = k * T + t
            corners.places[i] = place if inside else plan.image.spare
            corners.weights[i] = (one - down) * (one - right)
            corners.weights[size + i] = (one - down) * right
            corners.weights[2 * size + i] = down * (one - right)
            corners.weights[3 * size + i] = down * right
            corners.beyond[i] = down
            corners.beyond[size + i] = right


@inlined
def corner_shift(corner, plan, like):
    """From the upper left pixel to corner 0 .. 3."""
    return (corner // 2) * plan.image.row + (corner % 2) * lanes(like)


@inlined
def sample(canvas, shift, plan, corners, sampled):
    """Write what every tap reads to ``sampled[k, t]``."""
    size = plan.taps * T
    for k in range(plan.taps):
        where = places(corners.places, k * T, shift)
        total = multiply(each_position(corners.weights, k * T, 1), gather(canvas, where, 0))
        for corner in range(1, 4):
            value = gather(canvas, where, corner_shift(corner, plan, canvas))
            total = multiply_add(each_position(corners.weights, corner * size + k * T, 1), value, total)
        store_tile(sampled, k * T * lanes(canvas), total)


@inlined
def unsample(canvas_gradient, shift, plan, corners, sampled_gradient):
    """The adjoint of ``sample``: add to the pixels that were read."""
    size = plan.taps * T
    for k in range(plan.taps):
        where, gradient = places(corners.places, k * T, shift), load_tile(sampled_gradient, k * T * lanes(canvas_gradient))
        for corner in range(4):
            weight = each_position(corners.weights, corner * size + k * T, 1)
            scatter_multiply_add(canvas_gradient, where, corner_shift(corner, plan, canvas_gradient), weight, gradient)


@inlined
def correlate_corners(canvas, shift, plan, corners, sampled_gradient, products):
    """Add ``sum_c gradient * pixel`` of every corner to ``products[4, K, T]``, from which offsets get their gradient."""
    for k in range(plan.taps):
        where, gradient = places(corners.places, k * T, shift), load_tile(sampled_gradient, k * T * lanes(canvas))
        for corner in range(4):
            pixel = gather(canvas, where, corner_shift(corner, plan, canvas))
            add_channels(products, (corner * plan.taps + k) * T, multiply(gradient, pixel))


@inlined
def offset_gradient(plan, corners, products, gradient):
    """The gradient of staged offsets ``[K, 2, T]``; zero where nothing was read."""
    zero = number(gradient, 0)
    size = plan.taps * T
    for k in range(plan.taps):
        for t in range(T):
            i = k * T + t
            down, right, inside = corners.beyond[i], corners.beyond[size + i], corners.places[i] != plan.image.spare
            upper_left, upper_right, lower_left, lower_right = (
                products[i],
                products[size + i],
                products[2 * size + i],
                products[3 * size + i],
            )
            left, right_, upper, lower = (
                lower_left - upper_left,
                lower_right - upper_right,
                upper_right - upper_left,
                lower_right - lower_left,
            )
            gradient[2 * k * T + t] = left + right * (right_ - left) if inside else zero
            gradient[(2 * k + 1) * T + t] = upper + down * (lower - upper) if inside else zero
