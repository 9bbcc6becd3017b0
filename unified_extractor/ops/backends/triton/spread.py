"""What windows give to pixels, gathered by the pixels: fold, and the gradient of an image read on the regular grid.

A pixel asks, tap by tap, for the one window that reaches it by this tap. Nothing is added into memory, so nothing depends on an order.
A program works on pixels of one residue class by the stride: for these a tap reaches either all or none.
"""

# mypy: ignore-errors

from typing import Any, NamedTuple

import triton
import triton.language as tl

from unified_extractor.ops.backends.triton.mixing import pulled
from unified_extractor.ops.backends.triton.reading import regular, sample
from unified_extractor.ops.backends.triton.tiles import (
    Windows,
    at_windows,
    channels_of,
    of_image,
    program,
    wide,
    write_at_windows,
    zeros,
)
from unified_extractor.ops.backends.triton.tuning import tuned
from unified_extractor.ops.backends.triton.weights import weighted


class Pixels(NamedTuple):
    """Pixels of a residue class by the stride: ``row * stride_y + residue_y``, ``column * stride_x + residue_x``."""

    residue_y: Any
    residue_x: Any
    row: Any
    column: Any
    exist: Any


@triton.jit
def reached(source, static, dynamic, offsets, starts, i, j, pixels, channels, sizes, plan: tl.constexpr, GRADIENT: tl.constexpr):
    """What the pixels get from the windows that reach them by tap (i, j), a tile; ``pixels``: see :class:`Pixels`."""
    start, kernel, moves = starts
    tap = i * plan.columns + j
    down = pixels.residue_y + sizes.top - i * plan.dilation_y
    right = pixels.residue_x + sizes.left - j * plan.dilation_x
    total = zeros(pixels.row.shape[0], plan)
    if (down % plan.stride_y == 0) & (right % plan.stride_x == 0):
        row, column = pixels.row + down // plan.stride_y, pixels.column + right // plan.stride_x
        inside = (row >= 0) & (row < sizes.rows) & (column >= 0) & (column < sizes.columns)
        windows = Windows(row, column, pixels.exist & inside)
        if plan.aggregation == "fold":
            for other_i in range(plan.rows):
                for other_j in tl.static_range(plan.columns):
                    other = other_i * plan.columns + other_j
                    if GRADIENT:
                        value = regular(source, start, other_i, other_j, windows, channels, sizes, plan)
                        total += weighted(value, static, dynamic, kernel, other, tap, tap, windows, channels, plan)
                    else:
                        value = sample(source, start, offsets, moves, other_i, other_j, windows, channels, sizes, plan)
                        total += weighted(value, static, dynamic, kernel, tap, other, other, windows, channels, plan)
        else:
            if plan.static == "mixing":
                value = pulled(source, start, static, tap, windows, channels, plan)
            else:
                value = at_windows(source, start, tap, windows, channels, plan)
            total += weighted(value, static, dynamic, kernel, 0, tap, tap, windows, channels, plan)
    return total


@tuned(
    {"SCALE": 1, "num_warps": 4, "maxnreg": 168},
    {"SCALE": 2, "num_warps": 8, "maxnreg": 168},
    {"SCALE": 1, "num_warps": 8, "maxnreg": 168},
    {"SCALE": 1, "num_warps": 4, "maxnreg": 128},
    {"SCALE": 2, "num_warps": 8, "maxnreg": 128},
)
@triton.jit(do_not_specialize=["TUNED_FOR"])
def spread(
    source,
    static,
    dynamic,
    offsets,
    y,
    sizes,
    plan: tl.constexpr,
    GRADIENT: tl.constexpr,
    TUNED_FOR,
    SCALE: tl.constexpr,
):
    """A tile of pixels a program.

    The fold itself (GRADIENT false): ``y = sum_i sum_k S_k * D_ik * x~_k`` over the windows that reach a pixel by tap i; source is x.
    The gradient of x: ``y = sum_k S_k * sum_i D_ik * source_i`` over the windows that read a pixel by tap k; source is the output's.
    """
    positions: tl.constexpr = plan.tile_positions * SCALE
    classes: tl.constexpr = plan.stride_y * plan.stride_x
    across_row = tl.cdiv(sizes.width, plan.stride_x)
    tiles = tl.cdiv(tl.cdiv(sizes.height, plan.stride_y) * across_row, positions)
    place = program(tiles * classes, plan.blocks, plan)
    channels = channels_of(place.block, plan)
    residue_y, residue_x = place.tile % classes // plan.stride_x, place.tile % plan.stride_x
    index = wide(place.tile // classes * positions + tl.arange(0, positions), plan)
    row, column = index // across_row, index % across_row
    at_row, at_column = row * plan.stride_y + residue_y, column * plan.stride_x + residue_x
    exist = (at_row < sizes.height) & (at_column < sizes.width)
    pixels = Pixels(residue_y, residue_x, row, column, exist)
    starts = of_image(source, place.batch), of_image(dynamic, place.batch), of_image(offsets, place.batch)
    total = zeros(positions, plan)
    for i in range(plan.rows):
        # where a tap has enough to do, taps side by side would only take registers
        if plan.aggregation == "fold" or plan.static == "mixing" or plan.depth > 0:
            for j in range(plan.columns):
                total += reached(source, static, dynamic, offsets, starts, i, j, pixels, channels, sizes, plan, GRADIENT)
        else:
            for j in tl.static_range(plan.columns):
                total += reached(source, static, dynamic, offsets, starts, i, j, pixels, channels, sizes, plan, GRADIENT)
    write_at_windows(y, of_image(y, place.batch), 0, Windows(at_row, at_column, exist), channels, total, plan)
