"""Gather, the weighted sum of each window, and unfold, its weighted samples without the sum."""

# mypy: ignore-errors

import triton
import triton.language as tl

from unified_extractor.ops.backends.triton.sampling import sample
from unified_extractor.ops.backends.triton.tap_vectors import load_eight_taps
from unified_extractor.ops.backends.triton.tiles import (
    apply_weights,
    channels_of_block,
    load_and_apply_weights,
    start_of,
    store_at_windows,
    this_program,
    windows_of_tile,
    zeros,
)
from unified_extractor.ops.backends.triton.tuning import tuned


@tuned(
    {"SCALE": 1, "TAPS": 8, "num_warps": 4},
    {"SCALE": 2, "TAPS": 8, "num_warps": 8},
    {"SCALE": 1, "TAPS": 1, "num_warps": 4, "maxnreg": 168},
    {"SCALE": 2, "TAPS": 1, "num_warps": 8, "maxnreg": 168},
)
@triton.jit(do_not_specialize=["TUNED_FOR"])
def gather(
    x,
    static_kernel,
    dynamic_kernel,
    offsets,
    y,
    sizes,
    plan: tl.constexpr,
    TUNED_FOR,
    SCALE: tl.constexpr,
    TAPS: tl.constexpr,
):
    """Write ``y_p = sum_k weight_kp * x~_kp`` of each channel, a tile a program: reads everything once and writes y, nothing else.

    SCALE multiplies the positions of a tile; TAPS is how many weights are loaded at once.
    """
    positions: tl.constexpr = plan.tile_positions * SCALE
    place = this_program(tl.cdiv(sizes.output_height * sizes.output_width, positions), plan.blocks, plan)
    channels, windows = channels_of_block(place.block, plan), windows_of_tile(place.tile, positions, sizes, plan)
    batch = place.batch
    starts = start_of(x, batch), start_of(dynamic_kernel, batch), start_of(offsets, batch), start_of(y, batch)
    total = zeros(positions, plan)
    if TAPS == 8:
        whole: tl.constexpr = plan.taps // 8 * 8
        for first in range(0, whole, 8):
            weights = load_eight_taps(dynamic_kernel, starts[1], 0, first, windows, channels, plan.kernel_channel_groups, plan)
            for t in tl.static_range(8):
                i, j = (first + t) // plan.kernel_width, (first + t) % plan.kernel_width
                value = sample(x, starts[0], offsets, starts[2], i, j, windows, channels, sizes, plan)
                total += apply_weights(value, weights[t], static_kernel, first + t, channels, plan)
        for tap in tl.static_range(whole, plan.taps):
            i, j = tap // plan.kernel_width, tap % plan.kernel_width
            total += weigh_tap(x, static_kernel, dynamic_kernel, offsets, y, starts, i, j, windows, channels, sizes, plan)
    else:
        for i in range(plan.kernel_height):
            if plan.has_offsets:  # four loads a tap are enough to hide each other's time, more would need too many registers
                for j in range(plan.kernel_width):
                    total += weigh_tap(x, static_kernel, dynamic_kernel, offsets, y, starts, i, j, windows, channels, sizes, plan)
            else:
                for j in tl.static_range(plan.kernel_width):
                    total += weigh_tap(x, static_kernel, dynamic_kernel, offsets, y, starts, i, j, windows, channels, sizes, plan)
    if plan.aggregation != "unfold":
        store_at_windows(y, starts[3], 0, windows, channels, total, plan)


@triton.jit
def weigh_tap(x, static_kernel, dynamic_kernel, offsets, y, starts, i, j, windows, channels, sizes, plan: tl.constexpr):
    """Return what tap (i, j) adds to the sums of its windows; unfold writes each weighted sample too."""
    x_start, kernel_start, offsets_start, y_start = starts
    tap = i * plan.kernel_width + j
    value = sample(x, x_start, offsets, offsets_start, i, j, windows, channels, sizes, plan)
    value = load_and_apply_weights(value, static_kernel, dynamic_kernel, kernel_start, 0, tap, tap, windows, channels, plan)
    if plan.aggregation == "unfold":
        store_at_windows(y, y_start, tap, windows, channels, value, plan)
    return value
