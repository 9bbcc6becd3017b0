"""Fold, and the gradient of an image sampled on the regular grid: what windows give to pixels, collected by the pixels.

A pixel asks, tap by tap, for the one window that reaches it by this tap. Nothing is added into memory, so nothing depends on an order.
A program works on pixels of one residue class by the stride: for these a tap reaches either all or none.
"""

# mypy: ignore-errors

from typing import Any, NamedTuple

import triton
import triton.language as tl

from unified_extractor.ops.backends.triton.sampling import sample, sample_grid
from unified_extractor.ops.backends.triton.tiles import (
    Windows,
    as_index,
    channels_of_block,
    load_and_apply_weights,
    load_at_windows,
    start_of,
    store_at_windows,
    this_program,
    zeros,
)
from unified_extractor.ops.backends.triton.tuning import tuned


class Pixels(NamedTuple):
    """Pixels of a residue class by the stride: ``row * stride_y + residue_y``, ``column * stride_x + residue_x``."""

    residue_y: Any
    residue_x: Any
    row: Any
    column: Any
    exist: Any


@tuned(
    {"SCALE": 1, "num_warps": 4, "maxnreg": 168},
    {"SCALE": 2, "num_warps": 8, "maxnreg": 168},
    {"SCALE": 1, "num_warps": 8, "maxnreg": 168},
)
@triton.jit(do_not_specialize=["TUNED_FOR"])
def fold(
    source,
    static_kernel,
    dynamic_kernel,
    offsets,
    y,
    sizes,
    plan: tl.constexpr,
    GRADIENT: tl.constexpr,
    TUNED_FOR,
    SCALE: tl.constexpr,
):
    """Write a tile of pixels a program.

    The fold (GRADIENT false): ``y = sum_i sum_k S_k * D_ik * x~_k`` over the windows that reach a pixel by tap i; source is x.
    The gradient of x: ``y = sum_k S_k * sum_i D_ik * source_i`` over the windows that sample a pixel by tap k; source is the
    output's gradient.
    """
    positions: tl.constexpr = plan.tile_positions * SCALE
    classes: tl.constexpr = plan.stride_y * plan.stride_x
    class_width = tl.cdiv(sizes.width, plan.stride_x)
    tiles = tl.cdiv(tl.cdiv(sizes.height, plan.stride_y) * class_width, positions)
    place = this_program(tiles * classes, plan.blocks, plan)
    channels = channels_of_block(place.block, plan)
    residue_y, residue_x = place.tile % classes // plan.stride_x, place.tile % plan.stride_x
    index = as_index(place.tile // classes * positions + tl.arange(0, positions), plan)
    row, column = index // class_width, index % class_width
    at_row, at_column = row * plan.stride_y + residue_y, column * plan.stride_x + residue_x
    exist = (at_row < sizes.height) & (at_column < sizes.width)
    pixels = Pixels(residue_y, residue_x, row, column, exist)
    starts = start_of(source, place.batch), start_of(dynamic_kernel, place.batch), start_of(offsets, place.batch)
    total = zeros(positions, plan)
    for i in range(plan.kernel_height):
        if plan.aggregation == "fold":  # where a tap has enough to do, taps side by side would only take registers
            for j in range(plan.kernel_width):
                total += fold_tap(
                    source, static_kernel, dynamic_kernel, offsets, starts, i, j, pixels, channels, sizes, plan, GRADIENT
                )
        else:
            for j in tl.static_range(plan.kernel_width):
                total += fold_tap(
                    source, static_kernel, dynamic_kernel, offsets, starts, i, j, pixels, channels, sizes, plan, GRADIENT
                )
    store_at_windows(y, start_of(y, place.batch), 0, Windows(at_row, at_column, exist), channels, total, plan)


@triton.jit
def fold_tap(
    source,
    static_kernel,
    dynamic_kernel,
    offsets,
    starts,
    i,
    j,
    pixels,
    channels,
    sizes,
    plan: tl.constexpr,
    GRADIENT: tl.constexpr,
):
    """Return what pixels get from the windows that reach them by tap (i, j), a tile."""
    source_start, kernel_start, offsets_start = starts
    tap = i * plan.kernel_width + j
    down = pixels.residue_y + sizes.padding_y - i * plan.dilation_y
    right = pixels.residue_x + sizes.padding_x - j * plan.dilation_x
    total = zeros(pixels.row.shape[0], plan)
    if (down % plan.stride_y == 0) & (right % plan.stride_x == 0):
        row, column = pixels.row + down // plan.stride_y, pixels.column + right // plan.stride_x
        inside = (row >= 0) & (row < sizes.output_height) & (column >= 0) & (column < sizes.output_width)
        windows = Windows(row, column, pixels.exist & inside)
        if plan.aggregation == "fold":
            for other_i in range(plan.kernel_height):
                for other_j in tl.static_range(plan.kernel_width):
                    other = other_i * plan.kernel_width + other_j
                    if GRADIENT:
                        value = sample_grid(source, source_start, other_i, other_j, windows, channels, sizes, plan)
                        total += load_and_apply_weights(
                            value, static_kernel, dynamic_kernel, kernel_start, other, tap, tap, windows, channels, plan
                        )
                    else:
                        value = sample(
                            source, source_start, offsets, offsets_start, other_i, other_j, windows, channels, sizes, plan
                        )
                        total += load_and_apply_weights(
                            value, static_kernel, dynamic_kernel, kernel_start, tap, other, other, windows, channels, plan
                        )
        else:
            value = load_at_windows(source, source_start, tap, windows, channels, plan)
            total += load_and_apply_weights(
                value, static_kernel, dynamic_kernel, kernel_start, 0, tap, tap, windows, channels, plan
            )
    return total
