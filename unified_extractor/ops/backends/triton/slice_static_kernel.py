"""The gradient of a depthwise static kernel, a slice a thread (``slices.py`` says what fits)."""

# mypy: ignore-errors

import triton
import triton.language as tl

from unified_extractor.ops.backends.triton.sliced import add_corners, load_pieces, tap_factor
from unified_extractor.ops.backends.triton.slices import Slices, corner_weights, slice_corners, slice_place
from unified_extractor.ops.backends.triton.tiles import start_of
from unified_extractor.ops.backends.triton.tuning import tuned

SLICES_TOGETHER = tl.constexpr(4)
"""Most slices that a program has side by side: four of 32 bytes are a line of the cache."""


@tuned({"THREADS": 128, "num_warps": 4}, {"THREADS": 256, "num_warps": 8})
@triton.jit(do_not_specialize=["TUNED_FOR"])
def slice_static_kernel(
    grad_y,
    x,
    dynamic_kernel,
    offsets,
    sums,
    sizes,
    plan: tl.constexpr,
    WINDOWS: tl.constexpr,
    TUNED_FOR,
    THREADS: tl.constexpr,
):
    """Write a program's sum ``sum_p factor_kp * dy_p,c * x~_kp,c`` over WINDOWS windows of an image, for one tap k and the channels c of
    some slices, into ``sums`` [B * programs of an image, K, C]."""
    channels: tl.constexpr = plan.channel_groups * plan.group_channels
    slices_of_all: tl.constexpr = channels // plan.slice_channels
    together: tl.constexpr = min(slices_of_all & -slices_of_all, SLICES_TOGETHER)
    blocks: tl.constexpr = slices_of_all // together
    at_once: tl.constexpr = THREADS // together
    programs = tl.cdiv(sizes.output_height * sizes.output_width, WINDOWS)
    part, rest = tl.program_id(0) % programs, tl.program_id(0) // programs
    block, rest = rest % blocks, rest // blocks
    tap, image_number = rest % plan.taps, rest // plan.taps
    batch = image_number.to(tl.int64)
    index = block * together + tl.arange(0, THREADS) % together
    channel = index * plan.slice_channels
    starts = start_of(grad_y, batch), start_of(x, batch), start_of(dynamic_kernel, batch), start_of(offsets, batch)
    first = tl.zeros([THREADS, plan.slice_vector], tl.float64 if plan.dtype == "float64" else tl.float32)
    second = first
    for step in range(WINDOWS // at_once):
        window = part * WINDOWS + step * at_once + tl.arange(0, THREADS) // together
        row = window // sizes.output_width
        exist = row < sizes.output_height
        slices = Slices(batch, row, window % sizes.output_width, index, exist, channel, channel + plan.slice_vector)
        first, second = add_products(first, second, grad_y, x, dynamic_kernel, offsets, starts, tap, slices, sizes, plan)
    target = sums + (batch * programs + part) * (plan.taps * channels) + tap * channels + block * together * plan.slice_channels
    store_sums(target, first, together, plan)
    if plan.slice_channels > plan.slice_vector:
        store_sums(target + plan.slice_vector, second, together, plan)


@triton.jit
def add_products(first, second, grad_y, x, dynamic_kernel, offsets, starts, tap, slices, sizes, plan: tl.constexpr):
    """Return the sums of both pieces plus the products of the output's gradient with the weighted samples of a tap."""
    output, image, kernel_start, offsets_start = starts
    if plan.aggregation == "unfold":
        output += tap * grad_y.tap
    grad_first, grad_second = load_pieces(grad_y, output, slices, plan)
    i, j = tap // plan.kernel_width, tap % plan.kernel_width
    offsets_place = slice_place(offsets, slices, plan.offset_slices)
    kernel_place = slice_place(dynamic_kernel, slices, plan.kernel_slices)
    corners = slice_corners(offsets, offsets_start, offsets_place, i, j, slices, sizes, plan)
    weights = corner_weights(corners, tap_factor(dynamic_kernel, kernel_start, kernel_place, tap, corners, slices, plan), plan)
    first += grad_first * add_corners(tl.zeros_like(first), x, image, corners, weights, slices.first, plan)
    if plan.slice_channels > plan.slice_vector:
        second += grad_second * add_corners(tl.zeros_like(second), x, image, corners, weights, slices.second, plan)
    return first, second


@triton.jit
def store_sums(target, sums, TOGETHER: tl.constexpr, plan: tl.constexpr):
    """Write the sums of a piece over the windows of a program, for the slices that lie side by side."""
    count: tl.constexpr = TOGETHER * plan.slice_vector
    total = tl.sum(tl.reshape(sums, [sums.shape[0] // TOGETHER, count]), 0)
    place = tl.arange(0, count)
    tl.store(target + place // plan.slice_vector * plan.slice_channels + place % plan.slice_vector, total)
