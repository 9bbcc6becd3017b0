"""Dynamic kernels generated where they are used, and what becomes of their gradient, tile by tile. Neither leaves the cache.

A linear map: a tile's kernel is the product of T positions of the feature with a panel of the map's weights, its gradient is at once
multiplied by the same weights, and by the same positions of the feature. Query-key products: keys are read like the image itself, from
canvases of their own.
"""

# mypy: ignore-errors

from typing import NamedTuple

from unified_extractor.ops.backends.compiled.compilation import inlined
from unified_extractor.ops.backends.compiled.loops import Taps, contract, correlate, load_block, pack, spread, store_block, unpack
from unified_extractor.ops.backends.compiled.registers import T
from unified_extractor.ops.backends.compiled.tables import SIGMOID, SOFTMAX, Numbers
from unified_extractor.ops.backends.compiled.vectors import (
    add,
    add_positions,
    each_channel,
    each_of,
    each_position,
    exponential,
    gather,
    lanes,
    larger,
    load_row,
    multiply,
    multiply_add,
    number,
    places,
    reciprocal,
    scatter,
    store_columns,
    store_row,
    subtract,
    zeros,
)

_SUMMED = 16
"""Products that are added up by themselves: one long sum would lose digits with its length."""
_LARGE = 2**62
"""Its square, negative, is a value of which nothing is left beside any other."""


class Map(NamedTuple):
    """A linear map for each of G groups, in whole blocks of L, zero beyond its rows and the feature's channels; or query and keys."""

    feature: Numbers
    """``[B, R, P]``; the query ``[B, E, P]``."""
    weight: Numbers
    """``[G, columns/L, R, L]``; the keys ``[B, E, H, W]``."""
    transposed: Numbers
    """``[G, width/L, rows, L]``, for backward."""
    bias: Numbers
    """``[G, columns]``."""


class MapGradients(NamedTuple):
    """Where those of a map go: shares, to be added up."""

    feature: Numbers
    """``[bundles, B, R, P]``; that of the query itself."""
    weight: Numbers
    """``[partial sums, G, width/L, rows, L]``; that of the keys itself."""
    bias: Numbers
    """``[partial sums, G, rows, T]``."""


@inlined
def pack_feature(feature, work, b):
    """Bring an image's feature into its canvas."""
    generated = work.plan.generated
    for channel in range(0, generated.depth, lanes(feature)):
        plane, count = b * generated.depth + channel, min(lanes(feature), generated.depth - channel)
        pack(feature, plane, count, work.plan.positions, work.space.feature, generated.places, channel, work.space.edge)


@inlined
def unpack_feature(feature, work, b):
    """Write the gradient of an image's feature from its canvas."""
    generated = work.plan.generated
    for channel in range(0, generated.depth, lanes(feature)):
        plane, count = b * generated.depth + channel, min(lanes(feature), generated.depth - channel)
        pixels = work.plan.positions
        unpack(feature, plane, count, pixels, work.space.feature_gradient, generated.places, channel, work.space.edge)


@inlined
def generate(work, group, p):
    """Write a group's kernel at T windows from p on to ``weights[row, t]``."""
    generated, space, panel = work.plan.generated, work.space, work.inputs.map.weight
    for column in range(0, generated.columns, lanes(panel)):
        total = each_channel(work.inputs.map.bias, group * generated.columns + column)
        start = (group * generated.columns + column) * generated.depth
        for first in range(0, generated.depth, _SUMMED):
            part = zeros(panel)
            for r in range(first, min(first + _SUMMED, generated.depth)):
                value = each_position(space.feature, p * generated.width + r, generated.width)
                part = multiply_add(value, each_channel(panel, start + r * lanes(panel)), part)
            total = add(total, part)
        store_columns(space.weights, column * T, T, total)
    normalize(space.weights, work.plan.results, work.plan.taps, generated.normalization)


@inlined
def pull_kernel(work, gradients, wanted, partial, group, p):
    """The adjoint of ``generate``, from ``weights_gradient[row, t]``, which it changes."""
    generated, space, panel = work.plan.generated, work.space, work.inputs.map.transposed
    pulled = space.weights_gradient
    pull_normalized(space.weights, pulled, work.plan.results, work.plan.taps, generated.normalization)
    where = places(generated.places, p, 0)
    share = partial * work.plan.dynamic.groups + group
    for channel in range(0, generated.width, lanes(panel)):
        start = (group * generated.width + channel) * generated.rows
        if wanted.feature:
            total = gather(space.feature_gradient, where, channel)
            for k in range(generated.rows):
                total = multiply_add(each_position(pulled, k * T, 1), each_channel(panel, start + k * lanes(panel)), total)
            scatter(space.feature_gradient, where, channel, total)
        if wanted.weight:
            start = (share * generated.width + channel) * generated.rows
            value = gather(space.feature, where, channel)
            for k in range(generated.rows):
                add_positions(gradients.weight, start + k * lanes(panel), pulled, k * T, 1, value)
    if wanted.bias:
        add_rows(gradients.bias, share * generated.rows * T, pulled, generated.rows)


@inlined
def add_rows(sums, start, rows, count):
    """Add rows to sums from ``start`` on."""
    for at in range(0, count * T, T):
        store_row(sums, start + at, add(load_row(sums, start + at), load_row(rows, at)))


@inlined
def key_block(work, b, group, j):
    """A block of a head's channels of query and keys: its first plane, and how many."""
    generated = work.plan.generated
    size, first = generated.channels // generated.heads, j * lanes(work.inputs.x)
    return b * generated.channels + group * size + first, min(lanes(work.inputs.x), size - first)


@inlined
def pack_keys(keys, work, b, group):
    """Bring the keys of a unit, whose first head is ``group``, into their canvases."""
    plan, generated = work.plan, work.plan.generated
    for index in range(generated.unit_heads * generated.key_blocks):
        plane, count = key_block(work, b, group + index // generated.key_blocks, index % generated.key_blocks)
        pack(keys, plane, count, plan.pixels, work.space.keys, plan.image.pixels, index * plan.image.size, work.space.edge)


@inlined
def unpack_keys(keys, work, b, group):
    """Write the keys' gradient from its canvases."""
    plan, generated, canvas = work.plan, work.plan.generated, work.space.keys_gradient
    for index in range(generated.unit_heads * generated.key_blocks):
        plane, count = key_block(work, b, group + index // generated.key_blocks, index % generated.key_blocks)
        unpack(keys, plane, count, plan.pixels, canvas, plan.image.pixels, index * plan.image.size, work.space.edge)


@inlined
def key_taps(work, canvas, p, head, j):
    """Where the taps of a block of keys lie; ``head``: within the unit."""
    plan = work.plan
    shift = (head * plan.generated.key_blocks + j) * plan.image.size
    return Taps(canvas, places(plan.windows, p, shift), plan.taps_at)


@inlined
def query_tile(work, b, p, group, j):
    """A block of a head's query at T windows."""
    plan = work.plan
    plane, count = key_block(work, b, group, j)
    query, available = work.inputs.map.feature, plan.positions - p
    return load_block(query, plane * plan.positions + p, plan.positions, count, available, work.space.edge)


@inlined
def compare(work, b, p, group, first):
    """Write a head's kernel at T windows from p on to ``weights[tap, t]``; ``first``: the first head of the unit."""
    plan, generated, weights, inputs = work.plan, work.plan.generated, work.space.weights, work.inputs
    for k in range(plan.taps):
        store_row(weights, k * T, each_of(inputs.map.bias[group * generated.columns + k]))
    for j in range(generated.key_blocks):
        tile = query_tile(work, b, p, group, j)
        correlate(key_taps(work, work.space.keys, p, group - first, j), plan.taps, tile, inputs.static, 0, 0, weights, 0)
    if generated.normalization == SOFTMAX and generated.inside[p // T] == 0:
        exclude_outside(plan, weights, p)
    normalize(weights, 1, plan.taps, generated.normalization)


@inlined
def exclude_outside(plan, weights, p):
    """Put taps outside the image out of a softmax's reach: a finite value, so that a window wholly outside stays finite."""
    zero, height, width = number(weights, 0), number(weights, plan.height), number(weights, plan.width)
    excluded = -number(weights, _LARGE) * number(weights, _LARGE)
    for k in range(plan.taps):
        for t in range(T):
            y, x = plan.row_of[p + t] + plan.tap_row[k], plan.column_of[p + t] + plan.tap_column[k]
            inside = (y >= zero) & (y < height) & (x >= zero) & (x < width)
            weights[k * T + t] = weights[k * T + t] if inside else excluded


@inlined
def pull_products(work, gradients, wanted, partial, b, p, group, first):
    """The adjoint of ``compare``, from ``weights_gradient[tap, t]``, which it changes."""
    plan, generated, space, static = work.plan, work.plan.generated, work.space, work.inputs.static
    pulled = space.weights_gradient
    pull_normalized(space.weights, pulled, 1, plan.taps, generated.normalization)
    for j in range(generated.key_blocks):
        if wanted.feature:
            tile = contract(key_taps(work, space.keys, p, group - first, j), plan.taps, pulled, 0, static, 0, 0)
            plane, count = key_block(work, b, group, j)
            at, available = plane * plan.positions + p, plan.positions - p
            store_block(gradients.feature, at, plan.positions, count, available, tile, space.edge)
        if wanted.weight:
            tile = query_tile(work, b, p, group, j)
            spread(key_taps(work, space.keys_gradient, p, group - first, j), plan.taps, pulled, 0, tile, static, 0, 0)
    if wanted.bias:
        add_rows(gradients.bias, (partial * generated.heads + group) * plan.taps * T, pulled, plan.taps)


@inlined
def normalize(values, results, taps, normalization):
    """Normalize ``values[results, taps, T]`` in their place."""
    if normalization == SOFTMAX:
        for result in range(results):
            softmax(values, result * taps * T, taps)
    elif normalization == SIGMOID:
        for row in range(0, results * taps * T, T):
            falling = exponential(subtract(each_of(number(values, 0)), load_row(values, row)))
            store_row(values, row, reciprocal(add(each_of(number(values, 1)), falling)))


@inlined
def softmax(values, start, taps):
    """Over the taps from ``start`` on."""
    largest = load_row(values, start)
    for k in range(1, taps):
        largest = larger(largest, load_row(values, start + k * T))
    total = each_of(number(values, 0))
    for k in range(taps):
        value = exponential(subtract(load_row(values, start + k * T), largest))
        store_row(values, start + k * T, value)
        total = add(total, value)
    share = reciprocal(total)
    for k in range(taps):
        store_row(values, start + k * T, multiply(load_row(values, start + k * T), share))


@inlined
def pull_normalized(values, gradient, results, taps, normalization):
    """The adjoint of ``normalize``, in the gradient's place; ``values``: the normalized ones."""
    if normalization == SOFTMAX:
        for first in range(0, results * taps * T, taps * T):
            total = multiply(load_row(values, first), load_row(gradient, first))
            for k in range(1, taps):
                total = multiply_add(load_row(values, first + k * T), load_row(gradient, first + k * T), total)
            for k in range(taps):
                value = multiply(load_row(values, first + k * T), subtract(load_row(gradient, first + k * T), total))
                store_row(gradient, first + k * T, value)
    elif normalization == SIGMOID:
        for row in range(0, results * taps * T, T):
            value = load_row(values, row)
            slope = subtract(value, multiply(value, value))
            store_row(gradient, row, multiply(load_row(gradient, row), slope))
