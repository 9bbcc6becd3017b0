"""The image's gradient as banded products: what windows give to pixels, collected by the pixels.

Letters: ``pieces.py``. Pixels and windows of a class reach each other: ``pixel + padding = stride * window + dilation * tap``.
"""

# mypy: ignore-errors

from typing import Any, NamedTuple

import triton
import triton.language as tl

from unified_extractor.ops.backends.triton.banded.pieces import (
    channels_by_pixels,
    channels_of_groups,
    groups_of_block,
    image_mask,
    image_pointers,
    pieces_of_program,
    store_sums,
)
from unified_extractor.ops.backends.triton.banded.weights import as_matrices, load_weights, window_pointers
from unified_extractor.ops.backends.triton.tiles import as_index, start_of
from unified_extractor.ops.backends.triton.tuning import tuned


class Reach(NamedTuple):
    """The windows that reach the pixels of pieces, along one axis, ``[S]`` each."""

    pixel: Any
    """First pixel of a piece in the image; the next of its class is a dilation away."""
    window: Any
    """Its first window; the next of its class is ``classes`` windows away."""
    tap: Any
    """The tap by which the first window reaches the first pixel; by the next tap it reaches the next pixel."""
    exist: Any
    """False for a class of pixels between all taps."""


@triton.jit
def reach_of(
    first, residue, padding, kernel_size: tl.constexpr, stride: tl.constexpr, dilation: tl.constexpr, step: tl.constexpr
):
    """Return the windows that reach the class's pixels from ``first`` on: from the first window that any tap leads to it.

    ``residue`` numbers the classes of pixels by the dilation; ``step``: pixels of a class from window to window.
    """
    period: tl.constexpr = dilation // (
        stride // step
    )  # classes of windows; a class of pixels beyond these lies between all taps
    window = residue % period
    touched = window * stride + residue // period
    begin = ((touched - padding) % dilation + dilation) % dilation
    ahead = first + (begin + padding - touched) // dilation  # the tap by which window 0 of the class would reach the pixel
    if step == 1:
        before = ahead - (kernel_size - 1)
    else:
        before = (ahead - (kernel_size - 1) + step - 1 + (kernel_size + 2) * step) // step - (kernel_size + 2)
    return Reach(begin + first * dilation, window + before * period, ahead - step * before, residue // period == 0)


@tuned(
    {"PIECES": 2, "ROWS": 4, "num_warps": 4},
    {"PIECES": 4, "ROWS": 2, "num_warps": 4},
    {"PIECES": 4, "ROWS": 1, "num_warps": 4},
    {"PIECES": 4, "ROWS": 4, "num_warps": 8},
)
@triton.jit(do_not_specialize=["TUNED_FOR"])
def banded_image_gradient(
    grad_y,
    dynamic_kernel,
    grad_x,
    sizes,
    plan: tl.constexpr,
    band: tl.constexpr,
    TUNED_FOR,
    PIECES: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Write the gradients of PIECES pieces of ROWS rows of pixels a program."""
    pieces: tl.constexpr = PIECES * band.spare * band.windows // band.pixels
    blocks: tl.constexpr = band.group_blocks * band.member_blocks
    here = pieces_of_program(sizes.height, sizes.width, plan.dilation_y, plan.dilation_x, blocks, pieces, ROWS, band.pixels)
    group_block, member_block = here.block // band.member_blocks, here.block % band.member_blocks
    group, channel = groups_of_block(group_block, plan, band), channels_of_groups(group_block, member_block, plan, band)
    down = reach_of(here.row, here.class_y, sizes.padding_y, plan.kernel_height, plan.stride_y, plan.dilation_y, band.step_y)
    right = reach_of(here.column, here.class_x, sizes.padding_x, plan.kernel_width, plan.stride_x, plan.dilation_x, band.step_x)
    r, p = tl.arange(0, band.depth), tl.arange(0, band.pixels)
    gradient, kernel_start = start_of(grad_y, here.batch), start_of(dynamic_kernel, here.batch)
    sums = ()
    for _ in tl.static_range(ROWS):
        sums = sums + (tl.zeros([pieces * band.groups, band.members, band.pixels], tl.float32),)
    for chunk in tl.static_range(band.window_chunks):
        at = chunk * band.depth + r
        column = right.window[:, None] + at[None, :] * band.classes_x
        exist = (column >= 0) & (column < sizes.output_width) & (right.exist & down.exist)[:, None]
        if band.step_x == 1:
            first_tap = (plan.kernel_width - 1 + p[None, :] - at[:, None])[None, None, :, :]
        else:
            first_tap = (right.tap[:, None, None] + p[None, None, :] - band.step_x * at[None, :, None])[:, None, :, :]
        in_band = (first_tap >= 0) & (first_tap < plan.kernel_width) & exist[:, None, :, None]
        pointers = image_pointers(grad_y, gradient, down.window, column, channel, plan)
        weights = window_pointers(dynamic_kernel, kernel_start, down.window, column[:, None, :, None], group, plan, band)
        for n in tl.static_range((ROWS + plan.kernel_height - 2) // band.step_y + 1):
            row = down.window + n * band.classes_y
            is_row = (row >= 0) & (row < sizes.output_height)
            mask = image_mask(exist & is_row[:, None], channel, plan, band)
            gradients = tl.load(pointers + as_index(n * band.classes_y, plan) * grad_y.row, mask=mask, other=0.0)
            gradients = channels_by_pixels(gradients, plan, band)
            of_row = weights + as_index(n * band.classes_y, plan) * dynamic_kernel.row
            added = ()
            for o in tl.static_range(ROWS):
                # row o of the pixels is reached by tap row ``kernel_height - 1 + o - n * step``, or by one less than a step above
                if n * band.step_y <= plan.kernel_height - 1 + o and o < (n + 1) * band.step_y:
                    if band.step_y == 1:
                        tap = first_tap + (plan.kernel_height - 1 + o - n) * plan.kernel_width
                        inside = in_band & is_row[:, None, None, None]
                    else:
                        tap_row = down.tap + (o - n * band.step_y)
                        tap = first_tap + (tap_row * plan.kernel_width)[:, None, None, None]
                        is_tap = is_row & (tap_row >= 0) & (tap_row < plan.kernel_height)
                        inside = in_band & is_tap[:, None, None, None]
                    band_of_row = as_matrices(load_weights(dynamic_kernel, of_row, tap, inside, plan, band), plan)
                    added = added + (tl.dot(gradients, band_of_row, sums[o]),)
                else:
                    added = added + (sums[o],)
            sums = added
    column = right.pixel[:, None] + p[None, :] * plan.dilation_x
    for o in tl.static_range(ROWS):
        row = down.pixel + o * plan.dilation_y
        exist = (row < sizes.height)[:, None] & (column < sizes.width)
        store_sums(grad_x, start_of(grad_x, here.batch), sums[o], row, column, exist, channel, plan, band)
