"""Bilinear samples at positions that offsets give, and the gradients of image and offsets.

K taps, T positions in a tile, L channels (lanes) of a channel block.
"""

# mypy: ignore-errors

from typing import NamedTuple

import numpy as np

from unified_extractor.ops.backends.compiled.canvas import locate_windows
from unified_extractor.ops.backends.compiled.compilation import inlined
from unified_extractor.ops.backends.compiled.plan import Numbers, Table
from unified_extractor.ops.backends.compiled.registers import T
from unified_extractor.ops.backends.compiled.vectors import (
    add_channels,
    as_number,
    lanes,
    load_at,
    load_places,
    load_tile,
    multiply,
    multiply_add,
    multiply_add_at,
    per_position,
    store_tile,
)


class Corners(NamedTuple):
    """The four pixels around the positions of T windows' taps, ``[K, T]``."""

    places: Table
    """The place of the upper left pixel; the spare one for a position that is not finite or outside."""
    weights: Numbers
    """Bilinear weights ``[4, K, T]``: upper left, upper right, lower left, lower right."""
    fractions: Numbers
    """``[2, K, T]``: how far a position lies below and right of the upper left pixel."""
    windows: Numbers
    """y and x of the windows' first taps, ``[2, T]``."""


@inlined
def find_corners(offsets, plan, p, corners):
    """Fill the corners for T windows from p on, from staged offsets ``[K, 2, T]`` in pixels."""
    zero, one, lane_count = as_number(offsets, 0), as_number(offsets, 1), lanes(offsets)
    height, width = as_number(offsets, plan.height), as_number(offsets, plan.width)
    size = plan.taps * T
    locate_windows(plan, p, corners.windows)
    for k in range(plan.taps):
        for t in range(T):
            y = corners.windows[t] + plan.tap_y[k] + offsets[2 * k * T + t]
            x = corners.windows[T + t] + plan.tap_x[k] + offsets[(2 * k + 1) * T + t]
            inside = (y >= -one) & (y < height) & (x >= -one) & (x < width)  # comparing nan gives false
            y = y if inside else zero
            x = x if inside else zero
            top, left = np.floor(y), np.floor(x)
            down, right = y - top, x - left
            place = (np.int64(top) + 1) * plan.image.row + (np.int64(left) + 1) * lane_count
            i = k * T + t
            corners.places[i] = place if inside else plan.image.spare
            corners.weights[i] = (one - down) * (one - right)
            corners.weights[size + i] = (one - down) * right
            corners.weights[2 * size + i] = down * (one - right)
            corners.weights[3 * size + i] = down * right
            corners.fractions[i] = down
            corners.fractions[size + i] = right


@inlined
def corner_shift(corner, plan, like):
    """Return the elements from the upper left pixel to corner 0 .. 3."""
    return (corner // 2) * plan.image.row + (corner % 2) * lanes(like)


@inlined
def sample(canvas, shift, plan, corners, sampled):
    """Write the bilinear sample of every tap to ``sampled[k, t]``."""
    size = plan.taps * T
    for k in range(plan.taps):
        where = load_places(corners.places, k * T, shift)
        total = multiply(per_position(corners.weights, k * T, 1), load_at(canvas, where, 0))
        for corner in range(1, 4):
            pixel = load_at(canvas, where, corner_shift(corner, plan, canvas))
            total = multiply_add(per_position(corners.weights, corner * size + k * T, 1), pixel, total)
        store_tile(sampled, k * T * lanes(canvas), total)


@inlined
def sample_backward(grad_canvas, shift, plan, corners, grad_sampled):
    """Add the gradient of the samples, weighted bilinearly, to that of the four pixels of each."""
    size = plan.taps * T
    for k in range(plan.taps):
        where, gradient = load_places(corners.places, k * T, shift), load_tile(grad_sampled, k * T * lanes(grad_canvas))
        for corner in range(4):
            weight = per_position(corners.weights, corner * size + k * T, 1)
            multiply_add_at(grad_canvas, where, corner_shift(corner, plan, grad_canvas), weight, gradient)


@inlined
def add_corner_products(canvas, shift, plan, corners, grad_sampled, products):
    """Add ``sum_c gradient * pixel`` of every corner to ``products[4, K, T]``, for ``offsets_backward``."""
    for k in range(plan.taps):
        where, gradient = load_places(corners.places, k * T, shift), load_tile(grad_sampled, k * T * lanes(canvas))
        for corner in range(4):
            pixel = load_at(canvas, where, corner_shift(corner, plan, canvas))
            add_channels(products, (corner * plan.taps + k) * T, multiply(gradient, pixel))


@inlined
def offsets_backward(plan, corners, products, grad_offsets):
    """Write the gradient of staged offsets ``[K, 2, T]``; zero for a position that is not finite or outside."""
    zero = as_number(grad_offsets, 0)
    size = plan.taps * T
    for k in range(plan.taps):
        for t in range(T):
            i = k * T + t
            down, right, inside = corners.fractions[i], corners.fractions[size + i], corners.places[i] != plan.image.spare
            upper_left, upper_right = products[i], products[size + i]
            lower_left, lower_right = products[2 * size + i], products[3 * size + i]
            left_slope, right_slope = lower_left - upper_left, lower_right - upper_right
            upper_slope, lower_slope = upper_right - upper_left, lower_right - lower_left
            grad_offsets[2 * k * T + t] = left_slope + right * (right_slope - left_slope) if inside else zero
            grad_offsets[(2 * k + 1) * T + t] = upper_slope + down * (lower_slope - upper_slope) if inside else zero
