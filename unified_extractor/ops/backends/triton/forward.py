"""Gather: the windows' weighted sums, and unfold, the same without the sum."""

# mypy: ignore-errors

import triton
import triton.language as tl

from unified_extractor.ops.backends.triton.reading import sample
from unified_extractor.ops.backends.triton.tiles import (
    channels_of,
    of_image,
    program,
    weighed,
    windows_of,
    write_at_windows,
    zeros,
)
from unified_extractor.ops.backends.triton.tuning import tuned
from unified_extractor.ops.backends.triton.weights import eight_weights, feature_of, sixteen_weights, weighted


@tuned(
    {"SCALE": 1, "TAPS": 8, "num_warps": 4},
    {"SCALE": 2, "TAPS": 8, "num_warps": 8},
    {"SCALE": 1, "TAPS": 1, "num_warps": 4, "maxnreg": 168},
    {"SCALE": 2, "TAPS": 1, "num_warps": 8, "maxnreg": 168},
)
@triton.jit(do_not_specialize=["TUNED_FOR"])
def gather(x, static, dynamic, offsets, y, sizes, plan: tl.constexpr, TUNED_FOR, SCALE: tl.constexpr, TAPS: tl.constexpr):
    """Each channel alone: ``y_p = sum_k weight_kp * x~_kp``, a tile a program. Reads all of it once and writes y, nothing else."""
    positions: tl.constexpr = plan.tile_positions * SCALE
    place = program(tl.cdiv(sizes.rows * sizes.columns, positions), plan.blocks, plan)
    channels, windows = channels_of(place.block, plan), windows_of(place.tile, positions, sizes, plan)
    starts = of_image(x, place.batch), of_image(dynamic, place.batch), of_image(offsets, place.batch), of_image(y, place.batch)
    total = zeros(positions, plan)
    if plan.normalization == "softmax":
        low, high = sixteen_weights(dynamic, feature_of(dynamic, starts[1], windows, plan), channels, plan)
        for t in tl.static_range(plan.taps):
            kernel = low[t] if t < 8 else high[t - 8]
            value = sample(x, starts[0], offsets, starts[2], t // plan.columns, t % plan.columns, windows, channels, sizes, plan)
            total += weighed(value, kernel, static, t, channels, plan)
    elif TAPS == 8:
        whole: tl.constexpr = plan.taps // 8 * 8
        feature = feature_of(dynamic, starts[1], windows, plan)
        for first in range(0, whole, 8):
            kernels = eight_weights(dynamic, feature, starts[1], first, windows, channels, plan)
            for t in tl.static_range(8):
                i, j = (first + t) // plan.columns, (first + t) % plan.columns
                value = sample(x, starts[0], offsets, starts[2], i, j, windows, channels, sizes, plan)
                total += weighed(value, kernels[t], static, first + t, channels, plan)
        for tap in tl.static_range(whole, plan.taps):
            i, j = tap // plan.columns, tap % plan.columns
            total += contribution(x, static, dynamic, offsets, y, starts, i, j, windows, channels, sizes, plan)
    else:
        for i in range(plan.rows):
            if plan.moved:  # four reads a tap are enough to hide each other's time, more would need too many registers
                for j in range(plan.columns):
                    total += contribution(x, static, dynamic, offsets, y, starts, i, j, windows, channels, sizes, plan)
            else:
                for j in tl.static_range(plan.columns):
                    total += contribution(x, static, dynamic, offsets, y, starts, i, j, windows, channels, sizes, plan)
    if plan.aggregation != "unfold":
        write_at_windows(y, starts[3], 0, windows, channels, total, plan)


@triton.jit
def contribution(x, static, dynamic, offsets, y, starts, i, j, windows, channels, sizes, plan: tl.constexpr):
    """What tap (i, j) adds to the windows' sums; unfold writes it as it is."""
    image, kernel, moves, output = starts
    tap = i * plan.columns + j
    value = sample(x, image, offsets, moves, i, j, windows, channels, sizes, plan)
    if plan.aggregation == "unfold":
        write_at_windows(y, output, tap, windows, channels, value, plan)
    else:
        value = weighted(value, static, dynamic, kernel, 0, tap, tap, windows, channels, plan)
    return value
