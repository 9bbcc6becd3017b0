"""Dynamic kernels made in registers: a linear map of the feature at a tile's windows, by the matrix units or, for one tap, without.

The map's weight lies as ``[G*K, R]``. A tile holds whole groups, each of one unit.
"""

# mypy: ignore-errors

import triton
import triton.language as tl

from unified_extractor.ops.backends.triton.matrices import product
from unified_extractor.ops.backends.triton.tiles import precise, wide


@triton.jit
def feature_at(generator, start, windows, plan):
    """``[P, R]``: the feature at windows, R filled up with zeros."""
    depth = tl.arange(0, plan.tile_depth)
    place = windows.row * generator.row + windows.column * generator.column
    pointers = start + place[:, None] + (wide(depth, plan) * generator.channel)[None, :]
    return tl.load(pointers, mask=windows.exist[:, None] & (depth < plan.depth)[None, :], other=0.0)


@triton.jit
def map_rows(first, channels, WIDTH: tl.constexpr, plan):
    """``[U*WIDTH]``: the map's rows of taps ``first .. first + WIDTH - 1`` of a tile's units, and which exist."""
    flat = tl.arange(0, plan.tile_units * WIDTH)
    unit, tap = channels.first + flat // WIDTH, first + flat % WIDTH
    return unit * plan.taps + tap, (unit < plan.units) & (tap < plan.taps)


@triton.jit
def map_weights(generator, row, exist, plan):
    """``[U*WIDTH, R]``."""
    depth = tl.arange(0, plan.tile_depth)
    mask = exist[:, None] & (depth < plan.depth)[None, :]
    return tl.load(generator.weight + row[:, None] * plan.depth + depth[None, :], mask=mask, other=0.0)


@triton.jit
def kernels_at(generator, feature, first, channels, WIDTH: tl.constexpr, plan):
    """``[P, U*WIDTH]``: so many taps of the kernels at the windows whose ``feature`` it is."""
    row, exist = map_rows(first, channels, WIDTH, plan)
    values = product(feature, tl.trans(map_weights(generator, row, exist, plan)), plan)
    if generator.bias is not None:
        values += precise(tl.load(generator.bias + row, mask=exist, other=0.0))[None, :]
    if plan.normalization == "sigmoid":
        values = tl.sigmoid(values)
    elif plan.normalization == "softmax":
        each = tl.reshape(values, [values.shape[0], plan.tile_units, WIDTH])
        each = tl.where((tl.arange(0, WIDTH) < plan.taps)[None, None, :], each, float("-inf"))
        powers = tl.exp(each - tl.max(each, 2, keep_dims=True))
        values = tl.reshape(powers / tl.sum(powers, 2, keep_dims=True), [values.shape[0], plan.tile_units * WIDTH])
    return values


@triton.jit
def as_pairs(matrix, WIDTH: tl.constexpr, plan):
    """``[P, U*WIDTH]`` as pairs with a last axis."""
    result = tl.reshape(matrix, [matrix.shape[0], plan.tile_units, WIDTH])
    return result if plan.channels_last else tl.permute(result, (1, 0, 2))


@triton.jit
def from_pairs(pairs, plan):
    """The inverse of :func:`as_pairs`."""
    matrix = pairs if plan.channels_last else tl.permute(pairs, (1, 0, 2))
    return tl.reshape(matrix, [matrix.shape[0], matrix.shape[1] * matrix.shape[2]])


@triton.jit
def kernel_at(generator, start, tap, windows, channels, plan):
    """A pair: one tap of the kernels at windows."""
    feature = precise(feature_at(generator, start, windows, plan))
    row, exist = map_rows(tap, channels, 1, plan)
    weights = precise(map_weights(generator, row, exist, plan))
    if plan.channels_last:
        pair = tl.sum(feature[:, None, :] * weights[None, :, :], 2)
    else:
        pair = tl.sum(weights[:, None, :] * feature[None, :, :], 2)
    if generator.bias is not None:
        bias = precise(tl.load(generator.bias + row, mask=exist, other=0.0))
        pair += bias[None, :] if plan.channels_last else bias[:, None]
    return tl.sigmoid(pair) if plan.normalization == "sigmoid" else pair
