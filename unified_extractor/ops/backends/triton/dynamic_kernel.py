"""The dynamic kernel: read from memory or computed in registers, and applied to what a tap sampled, with the static kernel.

A computed kernel is a linear map of the feature at a tile's windows, with or without the matrix units. The weight of the map lies as
``[G*K, R]``. A tile then holds whole groups of the dynamic kernel, each one channel group.
"""

# mypy: ignore-errors

import triton
import triton.language as tl

from unified_extractor.ops.backends.triton.matrices import product
from unified_extractor.ops.backends.triton.tap_vectors import load_eight_taps, split_eight, split_sixteen
from unified_extractor.ops.backends.triton.tiles import apply_weights, as_index, load_group_tile, precise


@triton.jit
def load_and_apply_weights(value, static_kernel, dynamic_kernel, start, output_tap, tap, static_tap, windows, channels, plan):
    """Return a tile times the weights of both kernels at a tap."""
    if not plan.has_dynamic_kernel:
        weight = 1.0
    elif plan.feature_channels > 0:
        weight = compute_tap(dynamic_kernel, start, tap, windows, channels, plan)
    else:
        weight = load_group_tile(dynamic_kernel, start, output_tap, tap, windows, channels, plan.kernel_channel_groups, plan)
    return apply_weights(value, weight, static_kernel, static_tap, channels, plan)


@triton.jit
def eight_weights(dynamic_kernel, feature, start, first, windows, channels, plan):
    """Return taps ``first .. first + 7`` of the dynamic kernel, a group tile each."""
    if plan.feature_channels > 0:
        eight = split_eight(to_vectors(compute_taps(dynamic_kernel, feature, first, channels, 8, plan), 8, plan))
    else:
        eight = load_eight_taps(dynamic_kernel, start, 0, first, windows, channels, plan.kernel_channel_groups, plan)
    return eight


@triton.jit
def sixteen_weights(dynamic_kernel, feature, channels, plan):
    """Return the taps of a computed kernel, sixteen at most: twice eight group tiles."""
    vectors = to_vectors(compute_taps(dynamic_kernel, feature, 0, channels, 16, plan), 16, plan)
    low, high = split_sixteen(vectors)
    return split_eight(low), split_eight(high)


@triton.jit
def load_feature(linear_map, start, windows, plan):
    """Return the feature at windows, ``[P, R]``, R filled up with zeros."""
    channel = tl.arange(0, plan.tile_feature_channels)
    place = windows.row * linear_map.row + windows.column * linear_map.column
    pointers = start + place[:, None] + (as_index(channel, plan) * linear_map.channel)[None, :]
    return tl.load(pointers, mask=windows.exist[:, None] & (channel < plan.feature_channels)[None, :], other=0.0)


@triton.jit
def load_feature_if_computed(dynamic_kernel, start, windows, plan):
    """Return the feature that a tile's kernels are computed from, once for all taps; 0 where the kernels lie in memory."""
    return load_feature(dynamic_kernel, start, windows, plan) if plan.feature_channels > 0 else 0


@triton.jit
def map_rows(first, channels, WIDTH: tl.constexpr, plan):
    """Return the map's rows of taps ``first .. first + WIDTH - 1`` of a tile's channel groups, ``[J*WIDTH]``, and which exist."""
    flat = tl.arange(0, plan.tile_channel_groups * WIDTH)
    group, tap = channels.first_group + flat // WIDTH, first + flat % WIDTH
    return group * plan.taps + tap, (group < plan.channel_groups) & (tap < plan.taps)


@triton.jit
def load_map_weights(linear_map, row, exist, plan):
    """Return rows of the map's weight, ``[J*WIDTH, R]``."""
    channel = tl.arange(0, plan.tile_feature_channels)
    mask = exist[:, None] & (channel < plan.feature_channels)[None, :]
    return tl.load(linear_map.weight + row[:, None] * plan.feature_channels + channel[None, :], mask=mask, other=0.0)


@triton.jit
def compute_taps(linear_map, feature, first, channels, WIDTH: tl.constexpr, plan):
    """Return taps ``first .. first + WIDTH - 1`` of the kernels computed from ``feature``, ``[P, J*WIDTH]``."""
    row, exist = map_rows(first, channels, WIDTH, plan)
    values = product(feature, tl.trans(load_map_weights(linear_map, row, exist, plan)), plan)
    if linear_map.bias is not None:
        values += precise(tl.load(linear_map.bias + row, mask=exist, other=0.0))[None, :]
    if plan.normalization == "sigmoid":
        values = tl.sigmoid(values)
    elif plan.normalization == "softmax":
        taps = tl.reshape(values, [values.shape[0], plan.tile_channel_groups, WIDTH])
        taps = tl.where((tl.arange(0, WIDTH) < plan.taps)[None, None, :], taps, float("-inf"))
        powers = tl.exp(taps - tl.max(taps, 2, keep_dims=True))
        normalized = powers / tl.sum(powers, 2, keep_dims=True)
        values = tl.reshape(normalized, [values.shape[0], plan.tile_channel_groups * WIDTH])
    return values


@triton.jit
def to_vectors(matrix, WIDTH: tl.constexpr, plan):
    """Return a matrix ``[P, J*WIDTH]`` as a vector of taps: a group tile with a last axis of WIDTH."""
    result = tl.reshape(matrix, [matrix.shape[0], plan.tile_channel_groups, WIDTH])
    return result if plan.channels_last else tl.permute(result, (1, 0, 2))


@triton.jit
def from_vectors(vectors, plan):
    """Return the matrix that :func:`to_vectors` makes into this vector of taps."""
    matrix = vectors if plan.channels_last else tl.permute(vectors, (1, 0, 2))
    return tl.reshape(matrix, [matrix.shape[0], matrix.shape[1] * matrix.shape[2]])


@triton.jit
def compute_tap(linear_map, start, tap, windows, channels, plan):
    """Return one tap of the computed kernels at windows, a group tile, without the matrix units."""
    feature = precise(load_feature(linear_map, start, windows, plan))
    row, exist = map_rows(tap, channels, 1, plan)
    weights = precise(load_map_weights(linear_map, row, exist, plan))
    if plan.channels_last:
        group_tile = tl.sum(feature[:, None, :] * weights[None, :, :], 2)
    else:
        group_tile = tl.sum(weights[:, None, :] * feature[None, :, :], 2)
    if linear_map.bias is not None:
        bias = precise(tl.load(linear_map.bias + row, mask=exist, other=0.0))
        group_tile += bias[None, :] if plan.channels_last else bias[:, None]
    return tl.sigmoid(group_tile) if plan.normalization == "sigmoid" else group_tile
