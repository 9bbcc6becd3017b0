"""Gather and unfold at offsets or with a depthwise static kernel, a slice a thread: forward and backward (``slices.py`` says what fits)."""

# mypy: ignore-errors

import triton
import triton.language as tl

from unified_extractor.ops.backends.triton.slices import (
    corner_pointers,
    corner_weights,
    load_piece,
    load_slice_value,
    slice_corners,
    slice_place,
    slices_of_program,
    sum_over_sharing,
    window_pointers,
)
from unified_extractor.ops.backends.triton.tiles import precise, start_of
from unified_extractor.ops.backends.triton.tuning import tuned


@tuned({"THREADS": 128, "num_warps": 4}, {"THREADS": 256, "num_warps": 8})
@triton.jit(do_not_specialize=["TUNED_FOR"])
def slice_gather(x, static_kernel, dynamic_kernel, offsets, y, sizes, plan: tl.constexpr, TUNED_FOR, THREADS: tl.constexpr):
    """Write ``y_p = sum_k weight_kp * x~_kp`` of a slice a thread, or of an unfold each ``weight_kp * x~_kp``."""
    slices = slices_of_program(sizes, plan, THREADS)
    vector: tl.constexpr = plan.slice_vector
    image, kernel_start = start_of(x, slices.batch), start_of(dynamic_kernel, slices.batch)
    offsets_start, y_start = start_of(offsets, slices.batch), start_of(y, slices.batch)
    places = slice_place(dynamic_kernel, slices, plan.kernel_slices), slice_place(offsets, slices, plan.offset_slices)
    first = tl.zeros([THREADS, vector], tl.float64 if plan.dtype == "float64" else tl.float32)
    second = first
    tensors, starts = (x, static_kernel, dynamic_kernel, offsets, y), (image, kernel_start, offsets_start, y_start)
    if plan.has_offsets and plan.static_kernel == "depthwise":  # whatever is loaded ahead needs registers
        for tap in range(plan.taps):
            i, j = tap // plan.kernel_width, tap % plan.kernel_width
            first, second = add_tap(first, second, tensors, starts, places, i, j, slices, sizes, plan)
    elif plan.taps <= 16:
        for i in tl.static_range(plan.kernel_height):
            for j in tl.static_range(plan.kernel_width):
                first, second = add_tap(first, second, tensors, starts, places, i, j, slices, sizes, plan)
    else:
        for i in range(plan.kernel_height):
            for j in tl.static_range(plan.kernel_width):
                first, second = add_tap(first, second, tensors, starts, places, i, j, slices, sizes, plan)
    if plan.aggregation != "unfold":
        store_pieces(y, y_start, first, second, slices, plan)


@triton.jit
def store_pieces(image, start, first, second, slices, plan: tl.constexpr):
    """Write both pieces of an image that has a value for each window."""
    mask = slices.exist[:, None]
    tl.store(window_pointers(image, start, slices, slices.first, plan.slice_vector), first, mask=mask)
    if plan.slice_channels > plan.slice_vector:
        tl.store(window_pointers(image, start, slices, slices.second, plan.slice_vector), second, mask=mask)


@triton.jit
def load_pieces(image, start, slices, plan: tl.constexpr):
    """Return what :func:`store_pieces` writes; one piece twice where a slice has no other."""
    first = load_piece(window_pointers(image, start, slices, slices.first, plan.slice_vector), slices.exist)
    second = first
    if plan.slice_channels > plan.slice_vector:
        second = load_piece(window_pointers(image, start, slices, slices.second, plan.slice_vector), slices.exist)
    return first, second


@triton.jit
def load_static_piece(static_kernel, tap, channel, plan: tl.constexpr):
    """Return a tap's static weights of a piece, ``[T, VECTOR]``."""
    place = tap * (plan.channel_groups * plan.group_channels) + channel
    return precise(tl.load(static_kernel + place[:, None] + tl.arange(0, plan.slice_vector)[None, :]))


@triton.jit
def tap_factor(dynamic_kernel, start, place, tap, corners, slices, plan: tl.constexpr):
    """Return the factor of a tap that all channels of a group share, ``[T]``: all of its weight but the static one."""
    if plan.has_dynamic_kernel:
        factor = load_slice_value(dynamic_kernel, start, place, 0, tap, slices)
        if plan.static_kernel == "depthwise" and plan.combine == "residual":
            factor += 1.0
    else:
        factor = corners.inside.to(tl.float64 if plan.dtype == "float64" else tl.float32)
    return factor


@triton.jit
def add_tap(first, second, tensors, starts, places, i, j, slices, sizes, plan: tl.constexpr):
    """Return the sums of both pieces plus the weighted samples of tap (i, j); unfold writes these instead."""
    x, static_kernel, dynamic_kernel, offsets, y = tensors
    image, kernel_start, offsets_start, y_start = starts
    kernel_place, offsets_place = places
    tap = i * plan.kernel_width + j
    corners = slice_corners(offsets, offsets_start, offsets_place, i, j, slices, sizes, plan)
    weights = corner_weights(corners, tap_factor(dynamic_kernel, kernel_start, kernel_place, tap, corners, slices, plan), plan)
    first = add_sample(first, x, image, static_kernel, tap, corners, weights, slices.first, plan)
    if plan.slice_channels > plan.slice_vector:
        second = add_sample(second, x, image, static_kernel, tap, corners, weights, slices.second, plan)
    if plan.aggregation == "unfold":
        store_pieces(y, y_start + tap * y.tap, first, second, slices, plan)
        first, second = tl.zeros_like(first), tl.zeros_like(second)
    return first, second


@triton.jit
def add_sample(total, x, image, static_kernel, tap, corners, weights, channel, plan: tl.constexpr):
    """Return a sum plus the weighted corners of a piece, times the static weights where there are some."""
    if plan.static_kernel == "depthwise":
        sample = add_corners(tl.zeros_like(total), x, image, corners, weights, channel, plan)
        total += load_static_piece(static_kernel, tap, channel, plan) * sample
    else:
        total = add_corners(total, x, image, corners, weights, channel, plan)
    return total


@triton.jit
def add_corners(total, x, image, corners, weights, channel, plan: tl.constexpr):
    """Return a sum plus the weighted corners of a piece."""
    pointers = corner_pointers(x, image, corners, channel, plan.slice_vector)
    total += weights[0][:, None] * load_piece(pointers, corners.upper_left)
    if plan.has_offsets:
        total += weights[1][:, None] * load_piece(pointers + x.column, corners.upper_right)
        total += weights[2][:, None] * load_piece(pointers + x.row, corners.lower_left)
        total += weights[3][:, None] * load_piece(pointers + (x.row + x.column), corners.lower_right)
    return total


@tuned({"THREADS": 128, "num_warps": 4}, {"THREADS": 256, "num_warps": 8})
@triton.jit(do_not_specialize=["TUNED_FOR"])
def slice_backward(
    grad_y,
    x,
    static_kernel,
    dynamic_kernel,
    offsets,
    grad_x,
    grad_columns,
    grad_dynamic_kernel,
    grad_offsets,
    sizes,
    plan: tl.constexpr,
    GRAD_X: tl.constexpr,
    TUNED_FOR,
    THREADS: tl.constexpr,
):
    """Write the gradients that have memory, a slice a thread; GRAD_X: there is memory for the image's.

    Four products of the output's gradient, times the static weights, with the corners, ``s_ab = sum_c S_c * dy_c * x_ab,c``, give those of
    the dynamic kernel and of the offsets as scalars.
    """
    slices = slices_of_program(sizes, plan, THREADS)
    vector: tl.constexpr = plan.slice_vector
    two: tl.constexpr = plan.slice_channels > vector
    batch = slices.batch
    image, kernel_start, offsets_start = start_of(x, batch), start_of(dynamic_kernel, batch), start_of(offsets, batch)
    image_target, columns_target = start_of(grad_x, batch), start_of(grad_columns, batch)
    kernel_target, offsets_target = start_of(grad_dynamic_kernel, batch), start_of(grad_offsets, batch)
    offsets_place = slice_place(offsets, slices, plan.offset_slices)
    kernel_place = slice_place(dynamic_kernel, slices, plan.kernel_slices)
    grad_offsets_place = slice_place(grad_offsets, slices, plan.offset_slices)
    grad_kernel_place = slice_place(grad_dynamic_kernel, slices, plan.kernel_slices)
    output = start_of(grad_y, batch)
    grad_first, grad_second = load_pieces(grad_y, output, slices, plan)
    for i in range(plan.kernel_height):
        for j in tl.static_range(plan.kernel_width):
            tap = i * plan.kernel_width + j
            if plan.aggregation == "unfold":
                grad_first, grad_second = load_pieces(grad_y, output + tap * grad_y.tap, slices, plan)
            first, second = grad_first, grad_second
            if plan.static_kernel == "depthwise":
                first = load_static_piece(static_kernel, tap, slices.first, plan) * grad_first
                if two:
                    second = load_static_piece(static_kernel, tap, slices.second, plan) * grad_second
            corners = slice_corners(offsets, offsets_start, offsets_place, i, j, slices, sizes, plan)
            factor = tap_factor(dynamic_kernel, kernel_start, kernel_place, tap, corners, slices, plan)
            products = corner_products(first, x, image, corners, slices.first, plan)
            if two:
                more = corner_products(second, x, image, corners, slices.second, plan)
                products = products[0] + more[0], products[1] + more[1], products[2] + more[2], products[3] + more[3]
            if GRAD_X:
                weights = corner_weights(corners, factor, plan)
                add_to_pixels(grad_x, image_target, corners, weights, first, slices.first, vector)
                if two:
                    add_to_pixels(grad_x, image_target, corners, weights, second, slices.second, vector)
            if grad_columns.data is not None:
                scaled = tl.where(corners.inside, factor, 0.0)[:, None]
                at_tap = columns_target + tap * grad_columns.tap
                store_pieces(grad_columns, at_tap, first * scaled, second * scaled, slices, plan)
            if grad_dynamic_kernel.data is not None:
                value = products[0]
                if plan.has_offsets:
                    unit = corner_weights(corners, 1.0, plan)
                    value = unit[0] * products[0] + unit[1] * products[1] + unit[2] * products[2] + unit[3] * products[3]
                at_tap = kernel_target + tap * grad_dynamic_kernel.tap
                store_shared(at_tap + grad_kernel_place, value, slices, plan.kernel_slices)
            if grad_offsets.data is not None:
                upper_left, upper_right, lower_left, lower_right = products
                below, right = corners.below, corners.right
                by_y = (1.0 - right) * (lower_left - upper_left) + right * (lower_right - upper_right)
                by_x = (1.0 - below) * (upper_right - upper_left) + below * (lower_right - lower_left)
                at_tap = offsets_target + tap * grad_offsets.tap
                by_y, by_x = tl.where(corners.inside, factor * by_y, 0.0), tl.where(corners.inside, factor * by_x, 0.0)
                store_shared(at_tap + grad_offsets_place, by_y, slices, plan.offset_slices)
                store_shared(at_tap + grad_offsets.component + grad_offsets_place, by_x, slices, plan.offset_slices)


@triton.jit
def corner_products(gradient, x, image, corners, channel, plan: tl.constexpr):
    """Return the products of the output's gradient with the four corners, summed over a piece, ``[T]`` each."""
    pointers = corner_pointers(x, image, corners, channel, plan.slice_vector)
    upper_left = tl.sum(gradient * load_piece(pointers, corners.upper_left), 1)
    if plan.has_offsets:
        products = (
            upper_left,
            tl.sum(gradient * load_piece(pointers + x.column, corners.upper_right), 1),
            tl.sum(gradient * load_piece(pointers + x.row, corners.lower_left), 1),
            tl.sum(gradient * load_piece(pointers + (x.row + x.column), corners.lower_right), 1),
        )
    else:
        products = upper_left, upper_left, upper_left, upper_left
    return products


@triton.jit
def store_shared(pointers, values, slices, SHARING: tl.constexpr):
    """Write the sums over the SHARING slices that share a group: the first of them writes."""
    mask = slices.exist & (slices.index % SHARING == 0)
    tl.store(pointers, sum_over_sharing(values, SHARING), mask=mask)


@triton.jit
def add_to_pixels(target, start, corners, weights, gradient, channel, VECTOR: tl.constexpr):
    """Add a piece to the four pixels around its positions, with the weights of the sample."""
    add_to_pixel(target, start, corners, weights[0], corners.upper_left, gradient, channel, VECTOR)
    add_to_pixel(target, start + target.column, corners, weights[1], corners.upper_right, gradient, channel, VECTOR)
    add_to_pixel(target, start + target.row, corners, weights[2], corners.lower_left, gradient, channel, VECTOR)
    add_to_pixel(
        target, start + (target.row + target.column), corners, weights[3], corners.lower_right, gradient, channel, VECTOR
    )


@triton.jit
def add_to_pixel(target, start, corners, weight, mask, gradient, channel, VECTOR: tl.constexpr):
    """Add a piece to one corner, four channels at once, in float32 and in no particular order."""
    value = gradient * weight[:, None]
    if VECTOR == 8:
        low, high = tl.split(tl.permute(tl.reshape(value, [value.shape[0], 2, 4]), (0, 2, 1)))
        tl.atomic_add(corner_pointers(target, start, corners, channel, 4), low, mask=mask[:, None], sem="relaxed")
        tl.atomic_add(corner_pointers(target, start, corners, channel + 4, 4), high, mask=mask[:, None], sem="relaxed")
    else:
        tl.atomic_add(corner_pointers(target, start, corners, channel, VECTOR), value, mask=mask[:, None], sem="relaxed")
