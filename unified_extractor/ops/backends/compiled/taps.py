"""Sums over taps and channels: a tile of windows times the kernels, tap by tap, and the gradients.

K taps, T positions in a tile, L channels (lanes) of a channel block.
"""

# mypy: ignore-errors

from typing import NamedTuple

from unified_extractor.ops.backends.compiled.compilation import inlined
from unified_extractor.ops.backends.compiled.plan import Numbers, Table
from unified_extractor.ops.backends.compiled.registers import T
from unified_extractor.ops.backends.compiled.vectors import (
    add,
    add_channels,
    add_positions,
    lanes,
    load_at,
    load_tile,
    multiply,
    multiply_add,
    multiply_add_at,
    per_channel,
    per_position,
    store_tile,
    zeros,
)


class Taps(NamedTuple):
    """The taps of a channel block at T windows: tap k of window t lies at ``source[places[t] + shifts[k] :][:L]``."""

    source: Numbers
    places: object
    shifts: Table


@inlined
def sum_taps(taps, count, weights, row, static_kernel, lane, depthwise):
    """Return the tile ``sum_k weights[row + k] * static_kernel[k] * tap_k``; ``depthwise``: 1 if there is a static kernel."""
    total = zeros(taps.source)
    for k in range(count):
        value = times_static_kernel(load_at(taps.source, taps.places, taps.shifts[k]), k, static_kernel, lane, depthwise)
        total = multiply_add(per_position(weights, (row + k) * T, 1), value, total)
    return total


@inlined
def times_static_kernel(tile, k, static_kernel, lane, depthwise):
    """Return the tile times the depthwise static kernel at tap k, if there is one."""
    if depthwise == 1:
        tile = multiply(per_channel(static_kernel, lane + k * lanes(static_kernel)), tile)
    return tile


@inlined
def add_tap_products(taps, count, tile, static_kernel, lane, depthwise, products, row):
    """Add ``sum_c tile * static_kernel[k] * tap_k`` to ``products[row + k]``: query-key products, and the weights' gradient."""
    for k in range(count):
        weighted = times_static_kernel(tile, k, static_kernel, lane, depthwise)
        add_channels(products, (row + k) * T, multiply(weighted, load_at(taps.source, taps.places, taps.shifts[k])))


@inlined
def scatter_taps(taps, count, weights, row, tile, static_kernel, lane, depthwise):
    """Add ``weights[row + k] * static_kernel[k] * tile`` at every tap: the gradient of what ``sum_taps`` sums."""
    for k in range(count):
        weighted = times_static_kernel(tile, k, static_kernel, lane, depthwise)
        multiply_add_at(taps.source, taps.places, taps.shifts[k], per_position(weights, (row + k) * T, 1), weighted)


@inlined
def add_grad_static_kernel(taps, count, weights, row, gradient, grad_static_kernel, lane):
    """Add ``sum_p weights[row + k] * gradient * tap_k`` to the gradient of a depthwise static kernel."""
    for k in range(count):
        value = multiply(gradient, load_at(taps.source, taps.places, taps.shifts[k]))
        add_positions(grad_static_kernel, lane + k * lanes(taps.source), weights, (row + k) * T, 1, value)


@inlined
def store_weighted_taps(taps, count, weights, columns, first):
    """Write ``weights[k] * tap_k`` to ``columns``, tap after tap."""
    for k in range(count):
        tile = multiply(per_position(weights, k * T, 1), load_at(taps.source, taps.places, taps.shifts[k]))
        store_tile(columns, first + k * T * lanes(taps.source), tile)


@inlined
def matrix_product(columns, depth, panel, start):
    """Return the tile ``sum_j columns[j, t] * panel[j]``: ``depth`` vectors of L numbers a position, and a panel ``[depth*L, L]``.

    Each vector is summed by itself first: one long sum would lose digits with its length.
    """
    L = lanes(columns)
    total = zeros(columns)
    for block in range(depth):
        partial_sum = zeros(columns)
        for lane in range(L):
            value = per_position(columns, block * T * L + lane, L)
            partial_sum = multiply_add(value, per_channel(panel, start + (block * L + lane) * L), partial_sum)
        total = add(total, partial_sum)
    return total


@inlined
def add_outer_products(column, grad_outputs, blocks, grad_matrix, start, stride):
    """Add ``sum_t column[t, l] * grad_outputs[t]`` to L rows of a matrix's gradient."""
    for block in range(blocks):
        tile = load_tile(grad_outputs, block * T * lanes(column))
        for lane in range(lanes(column)):
            add_positions(grad_matrix, start + lane * stride + block * lanes(column), column, lane, lanes(column), tile)
