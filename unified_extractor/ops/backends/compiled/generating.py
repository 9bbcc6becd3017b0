"""Dynamic kernels generated where they are used, and what becomes of their gradient: a linear map of a feature, tile by tile.

Neither leaves the second cache: a tile's kernel is a product of T positions of the feature with a panel of the map's weights, its
gradient is at once multiplied by the same weights, and by the same positions of the feature.
"""

# mypy: ignore-errors

from typing import NamedTuple

from unified_extractor.ops.backends.compiled.compilation import inlined
from unified_extractor.ops.backends.compiled.loops import pack, unpack
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


class Map(NamedTuple):
    """A linear map for each of G groups, in whole blocks of L, zero beyond its rows and the feature's channels."""

    feature: Numbers
    """``[B, R, P]``."""
    forward: Numbers
    """``[G, columns/L, R, L]``."""
    backward: Numbers
    """``[G, width/L, rows, L]``."""
    bias: Numbers
    """``[G, columns]``."""


class MapGradients(NamedTuple):
    """Where those of a map go: shares, to be added up."""

    feature: Numbers
    """``[bundles, B, R, P]``."""
    weight: Numbers
    """``[partial sums, G, width/L, rows, L]``."""
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
    generated, space, panel = work.plan.generated, work.space, work.inputs.map.forward
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
    normalise(space.weights, work.plan.results, work.plan.taps, generated.normalisation)


@inlined
def pull_kernel(work, gradients, wanted, partial, group, p):
    """The adjoint of ``generate``, from ``weights_gradient[row, t]``, which it changes."""
    generated, space, panel = work.plan.generated, work.space, work.inputs.map.backward
    pulled = space.weights_gradient
    pull_normalised(space.weights, pulled, work.plan.results, work.plan.taps, generated.normalisation)
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
        row = share * generated.rows
        for k in range(generated.rows):
            store_row(gradients.bias, (row + k) * T, add(load_row(gradients.bias, (row + k) * T), load_row(pulled, k * T)))


@inlined
def normalise(values, results, taps, normalisation):
    """Normalise ``values[results, taps, T]`` in their place."""
    if normalisation == SOFTMAX:
        for result in range(results):
            softmax(values, result * taps * T, taps)
    elif normalisation == SIGMOID:
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
def pull_normalised(values, gradient, results, taps, normalisation):
    """The adjoint of ``normalise``, in the gradient's place; ``values``: the normalised ones."""
    if normalisation == SOFTMAX:
        for first in range(0, results * taps * T, taps * T):
            total = multiply(load_row(values, first), load_row(gradient, first))
            for k in range(1, taps):
                total = multiply_add(load_row(values, first + k * T), load_row(gradient, first + k * T), total)
            for k in range(taps):
                value = multiply(load_row(values, first + k * T), subtract(load_row(gradient, first + k * T), total))
                store_row(gradient, first + k * T, value)
    elif normalisation == SIGMOID:
        for row in range(0, results * taps * T, T):
            value = load_row(values, row)
            slope = subtract(value, multiply(value, value))
            store_row(gradient, row, multiply(load_row(gradient, row), slope))
