"""Dynamic kernels computed where they are used, and recomputed in backward: neither they nor their gradient leave the cache.

A linear map: the kernel of a tile is the product of T positions of the feature with the map's weights; its gradient is at once
multiplied by the same weights, and by the same positions of the feature. Query-key products: keys are packed into canvases of their
own, like the image.

B batch, R channels of the feature, E channels of query and keys, G kernel groups, K taps, I outputs of a window (1; fold: K), P positions,
T positions in a tile, L channels (lanes) of a channel block.
"""

# mypy: ignore-errors

from typing import NamedTuple

from unified_extractor.ops.backends.compiled.canvas import load_block, locate_windows, pack, raster_places, store_block, unpack
from unified_extractor.ops.backends.compiled.compilation import inlined
from unified_extractor.ops.backends.compiled.plan import SIGMOID, SOFTMAX, Numbers
from unified_extractor.ops.backends.compiled.registers import T
from unified_extractor.ops.backends.compiled.taps import Taps, add_tap_products, scatter_taps, sum_taps
from unified_extractor.ops.backends.compiled.vectors import (
    add,
    add_positions,
    as_number,
    constant_row,
    exponential,
    lanes,
    larger,
    load_at,
    load_row,
    multiply,
    multiply_add,
    per_channel,
    per_position,
    reciprocal,
    store_at,
    store_columns,
    store_row,
    subtract,
    zeros,
)

_PARTIAL_SUM = 16
"""Products that are added up by themselves first: one long sum would lose digits with its length."""
_ROOT_OF_MASK = 2**62
"""The root of the number that is subtracted from a masked product: in either dtype it leaves nothing of a softmax weight."""


class KernelTensors(NamedTuple):
    """The tensors that a dynamic kernel is computed from: a feature and a linear map for each group, or query, keys and a position bias."""

    feature: Numbers
    """The feature ``[B, R, P]``, or the query ``[B, E, P]``."""
    weight: Numbers
    """The linear map ``[G, padded rows/L, R, L]``, zero beyond its rows, or the keys ``[B, E, H, W]``."""
    transposed: Numbers
    """The linear map ``[G, padded depth/L, rows, L]``, zero beyond the feature's channels, for backward."""
    bias: Numbers
    """``[G, padded rows]``."""


class KernelGradients(NamedTuple):
    """The gradients of :class:`KernelTensors`; those of a linear map in partial sums."""

    feature: Numbers
    """``[bundles, B, R, P]``, or of the query ``[1, B, E, P]``."""
    weight: Numbers
    """``[partial sums, G, padded depth/L, rows, L]``, or of the keys ``[1, B, E, H, W]``."""
    bias: Numbers
    """``[partial sums, G, rows, T]``."""


@inlined
def pack_feature(feature, workspace, b):
    """Copy the feature of image b into its canvas."""
    computed = workspace.plan.computed
    for channel in range(0, computed.depth, lanes(feature)):
        plane, count = b * computed.depth + channel, min(lanes(feature), computed.depth - channel)
        pack(
            feature,
            plane,
            count,
            workspace.plan.positions,
            workspace.buffers.feature,
            computed.places,
            channel,
            workspace.buffers.edge,
        )


@inlined
def unpack_feature(feature, workspace, b):
    """Copy the gradient of the feature from its canvas; b counts images of all bundles."""
    computed = workspace.plan.computed
    for channel in range(0, computed.depth, lanes(feature)):
        plane, count = b * computed.depth + channel, min(lanes(feature), computed.depth - channel)
        pixels = workspace.plan.positions
        unpack(feature, plane, count, pixels, workspace.buffers.grad_feature, computed.places, channel, workspace.buffers.edge)


@inlined
def linear_kernel(workspace, group, p):
    """Compute a group's kernel at T windows from p on, by a linear map, in ``weights[row, t]``."""
    computed, buffers, panel = workspace.plan.computed, workspace.buffers, workspace.inputs.kernel_tensors.weight
    for column in range(0, computed.padded_rows, lanes(panel)):
        total = per_channel(workspace.inputs.kernel_tensors.bias, group * computed.padded_rows + column)
        start = (group * computed.padded_rows + column) * computed.depth
        for first in range(0, computed.depth, _PARTIAL_SUM):
            partial_sum = zeros(panel)
            for r in range(first, min(first + _PARTIAL_SUM, computed.depth)):
                value = per_position(buffers.feature, p * computed.padded_depth + r, computed.padded_depth)
                partial_sum = multiply_add(value, per_channel(panel, start + r * lanes(panel)), partial_sum)
            total = add(total, partial_sum)
        store_columns(buffers.weights, column * T, T, total)
    normalize(buffers.weights, workspace.plan.results, workspace.plan.taps, computed.normalization)


@inlined
def linear_kernel_backward(workspace, gradients, wanted, partial, group, p):
    """Add the gradients of feature, map and bias from that of a group's kernel, ``grad_weights[row, t]``, which is overwritten."""
    computed, buffers, panel = workspace.plan.computed, workspace.buffers, workspace.inputs.kernel_tensors.transposed
    grad_weights = buffers.grad_weights
    normalize_backward(buffers.weights, grad_weights, workspace.plan.results, workspace.plan.taps, computed.normalization)
    where = raster_places(computed.places, p, 0)
    partial_group = partial * workspace.plan.dynamic_kernel.groups + group
    for channel in range(0, computed.padded_depth, lanes(panel)):
        start = (group * computed.padded_depth + channel) * computed.rows
        if wanted.feature:
            total = load_at(buffers.grad_feature, where, channel)
            for k in range(computed.rows):
                total = multiply_add(per_position(grad_weights, k * T, 1), per_channel(panel, start + k * lanes(panel)), total)
            store_at(buffers.grad_feature, where, channel, total)
        if wanted.weight:
            start = (partial_group * computed.padded_depth + channel) * computed.rows
            value = load_at(buffers.feature, where, channel)
            for k in range(computed.rows):
                add_positions(gradients.weight, start + k * lanes(panel), grad_weights, k * T, 1, value)
    if wanted.bias:
        add_rows(gradients.bias, partial_group * computed.rows * T, grad_weights, computed.rows)


@inlined
def add_rows(sums, start, rows, count):
    """Add ``count`` rows to the sums from ``start`` on."""
    for at in range(0, count * T, T):
        store_row(sums, start + at, add(load_row(sums, start + at), load_row(rows, at)))


@inlined
def key_block(workspace, b, group, j):
    """Return the first plane of block j of a head's query and keys, and the number of its channels."""
    computed = workspace.plan.computed
    size, first = computed.channels // computed.heads, j * lanes(workspace.inputs.x)
    return b * computed.channels + group * size + first, min(lanes(workspace.inputs.x), size - first)


@inlined
def pack_keys(keys, workspace, b, group):
    """Copy the keys of a channel range, whose first head is ``group``, into their canvases."""
    plan, computed = workspace.plan, workspace.plan.computed
    for index in range(computed.range_heads * computed.key_blocks):
        plane, count = key_block(workspace, b, group + index // computed.key_blocks, index % computed.key_blocks)
        pack(
            keys,
            plane,
            count,
            plan.pixels,
            workspace.buffers.keys,
            plan.image.pixels,
            index * plan.image.size,
            workspace.buffers.edge,
        )


@inlined
def unpack_keys(keys, workspace, b, group):
    """Copy the gradient of the keys of a channel range, whose first head is ``group``, from its canvases."""
    plan, computed, canvas = workspace.plan, workspace.plan.computed, workspace.buffers.grad_keys
    for index in range(computed.range_heads * computed.key_blocks):
        plane, count = key_block(workspace, b, group + index // computed.key_blocks, index % computed.key_blocks)
        unpack(keys, plane, count, plan.pixels, canvas, plan.image.pixels, index * plan.image.size, workspace.buffers.edge)


@inlined
def key_taps(workspace, canvas, p, head, j):
    """Return the taps of block j of the keys of a head, counted within the channel range."""
    plan = workspace.plan
    shift = (head * plan.computed.key_blocks + j) * plan.image.size
    return Taps(canvas, raster_places(plan.windows, p, shift), plan.tap_shifts)


@inlined
def query_tile(workspace, b, p, group, j):
    """Return block j of a head's query at T windows from p on."""
    plan = workspace.plan
    plane, count = key_block(workspace, b, group, j)
    query, available = workspace.inputs.kernel_tensors.feature, plan.positions - p
    return load_block(query, plane * plan.positions + p, plan.positions, count, available, workspace.buffers.edge)


@inlined
def attention_kernel(workspace, b, p, group, first):
    """Compute a head's kernel at T windows from p on, by query-key products, in ``weights[tap, t]``.

    Heads are ``group`` and the first of the channel range, ``first``.
    """
    plan, computed, weights, inputs = workspace.plan, workspace.plan.computed, workspace.buffers.weights, workspace.inputs
    for k in range(plan.taps):
        store_row(weights, k * T, constant_row(inputs.kernel_tensors.bias[group * computed.padded_rows + k]))
    for j in range(computed.key_blocks):
        tile = query_tile(workspace, b, p, group, j)
        taps = key_taps(workspace, workspace.buffers.keys, p, group - first, j)
        add_tap_products(taps, plan.taps, tile, inputs.static_kernel, 0, 0, weights, 0)
    if computed.normalization == SOFTMAX and not is_inside(plan, p):
        mask_outside(plan, weights, p, workspace.buffers.windows)
    normalize(weights, 1, plan.taps, computed.normalization)


@inlined
def is_inside(plan, p):
    """Return whether T windows from p on have all taps in the image."""
    inner, width = plan.inner, plan.inner.width
    row, column = divmod(p, width)
    if p + T > plan.positions or row < inner.top or (p + T - 1) // width >= inner.bottom:
        return False
    if column + T <= width:
        return column >= inner.left and column + T <= inner.right
    return inner.left == 0 and inner.right == width


@inlined
def mask_outside(plan, weights, p, windows):
    """Mask taps outside the image for a softmax, by a finite value, so that a window wholly outside stays finite."""
    zero, height, width = as_number(weights, 0), as_number(weights, plan.height), as_number(weights, plan.width)
    excluded = -as_number(weights, _ROOT_OF_MASK) * as_number(weights, _ROOT_OF_MASK)
    locate_windows(plan, p, windows)
    for k in range(plan.taps):
        for t in range(T):
            y, x = windows[t] + plan.tap_y[k], windows[T + t] + plan.tap_x[k]
            inside = (y >= zero) & (y < height) & (x >= zero) & (x < width)
            weights[k * T + t] = weights[k * T + t] if inside else excluded


@inlined
def attention_kernel_backward(workspace, gradients, wanted, partial, b, p, group, first):
    """Add the gradients of query, keys and bias from that of a head's kernel, ``grad_weights[tap, t]``, which is overwritten."""
    plan, computed, buffers = workspace.plan, workspace.plan.computed, workspace.buffers
    static_kernel, grad_weights = workspace.inputs.static_kernel, buffers.grad_weights
    normalize_backward(buffers.weights, grad_weights, 1, plan.taps, computed.normalization)
    for j in range(computed.key_blocks):
        if wanted.feature:
            taps = key_taps(workspace, buffers.keys, p, group - first, j)
            tile = sum_taps(taps, plan.taps, grad_weights, 0, static_kernel, 0, 0)
            plane, count = key_block(workspace, b, group, j)
            at, available = plane * plan.positions + p, plan.positions - p
            store_block(gradients.feature, at, plan.positions, count, available, tile, buffers.edge)
        if wanted.weight:
            grad_taps = key_taps(workspace, buffers.grad_keys, p, group - first, j)
            scatter_taps(grad_taps, plan.taps, grad_weights, 0, query_tile(workspace, b, p, group, j), static_kernel, 0, 0)
    if wanted.bias:
        add_rows(gradients.bias, (partial * computed.heads + group) * plan.taps * T, grad_weights, plan.taps)


@inlined
def normalize(values, results, taps, normalization):
    """Normalize ``values[results, taps, T]`` in place."""
    if normalization == SOFTMAX:
        for result in range(results):
            softmax(values, result * taps * T, taps)
    elif normalization == SIGMOID:
        for row in range(0, results * taps * T, T):
            falling = exponential(subtract(constant_row(as_number(values, 0)), load_row(values, row)))
            store_row(values, row, reciprocal(add(constant_row(as_number(values, 1)), falling)))


@inlined
def softmax(values, start, taps):
    """Replace the values of a window's taps, from ``start`` on, by their softmax."""
    largest = load_row(values, start)
    for k in range(1, taps):
        largest = larger(largest, load_row(values, start + k * T))
    total = constant_row(as_number(values, 0))
    for k in range(taps):
        value = exponential(subtract(load_row(values, start + k * T), largest))
        store_row(values, start + k * T, value)
        total = add(total, value)
    factor = reciprocal(total)
    for k in range(taps):
        store_row(values, start + k * T, multiply(load_row(values, start + k * T), factor))


@inlined
def normalize_backward(values, grad_values, results, taps, normalization):
    """Turn the gradient of normalized values into that of the values before, in place."""
    if normalization == SOFTMAX:
        for first in range(0, results * taps * T, taps * T):
            total = multiply(load_row(values, first), load_row(grad_values, first))
            for k in range(1, taps):
                total = multiply_add(load_row(values, first + k * T), load_row(grad_values, first + k * T), total)
            for k in range(taps):
                value = multiply(load_row(values, first + k * T), subtract(load_row(grad_values, first + k * T), total))
                store_row(grad_values, first + k * T, value)
    elif normalization == SIGMOID:
        for row in range(0, results * taps * T, T):
            value = load_row(values, row)
            slope = subtract(value, multiply(value, value))
            store_row(grad_values, row, multiply(load_row(grad_values, row), slope))
