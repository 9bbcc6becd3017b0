"""Tiles as matrices, and their products in the matrix units."""

# mypy: ignore-errors

import triton
import triton.language as tl


@triton.jit
def tile_to_matrix(tile, plan):
    """Return a tile as a matrix of positions and channels, ``[P, J*N]``."""
    if plan.channels_last:
        result = tl.reshape(tile, [tile.shape[0], tile.shape[1] * tile.shape[2]])
    else:
        result = tl.trans(tl.reshape(tile, [tile.shape[0] * tile.shape[1], tile.shape[2]]))
    return result


@triton.jit
def matrix_to_tile(matrix, plan):
    """Return the tile that :func:`tile_to_matrix` makes into this matrix."""
    if plan.channels_last:
        result = tl.reshape(matrix, [matrix.shape[0], plan.tile_channel_groups, plan.tile_group_channels])
    else:
        result = tl.reshape(tl.trans(matrix), [plan.tile_channel_groups, plan.tile_group_channels, matrix.shape[0]])
    return result


@triton.jit
def operand(value, plan):
    """Return values as the matrix units take them.

    Triton's interpreter multiplies a bfloat16 by its bits: there, they are float32 of the same value.
    """
    if plan.dtype == "bfloat16":
        value = value.to(tl.bfloat16)
        if plan.interpreted:
            value = value.to(tl.float32)
    elif plan.dtype == "float16":
        value = value.to(tl.float16)
    return value


@triton.jit
def product(left, right, plan):
    """Return a matrix product with sums in at least float32."""
    dtype: tl.constexpr = tl.float64 if plan.dtype == "float64" else tl.float32
    return tl.dot(operand(left, plan), operand(right, plan), input_precision=plan.precision, out_dtype=dtype)
