"""Fold as composed banded products, and its image's gradient, which is the fold with source taps and output taps exchanged.

Letters: ``pieces.py``. Rows and columns of windows and of padded pixels: window p covers the padded pixels from ``stride * p`` on.
"""

# mypy: ignore-errors

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
from unified_extractor.ops.backends.triton.banded.weights import as_matrices
from unified_extractor.ops.backends.triton.tiles import as_index, start_of
from unified_extractor.ops.backends.triton.tuning import tuned


@tuned(
    {"PIECES": 4, "num_warps": 4},
    {"PIECES": 2, "num_warps": 4},
    {"PIECES": 4, "num_warps": 8},
)
@triton.jit(do_not_specialize=["TUNED_FOR"])
def banded_fold(
    source,
    dynamic_kernel,
    y,
    sizes,
    plan: tl.constexpr,
    band: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    TUNED_FOR,
    PIECES: tl.constexpr,
):
    """Write the pixels of PIECES pieces a program: those of a row of windows up to the next row, eight in a row.

    TRANSPOSED: the source's taps are the dynamic kernel's output taps; source is the gradient of a fold's output, y that of its image.
    """
    pieces: tl.constexpr = PIECES * band.spare
    steps, across = tl.cdiv(sizes.height + sizes.padding_y, plan.stride_y), sizes.width + sizes.padding_x
    here = pieces_of_program(steps, across, 1, 1, band.group_blocks, pieces, 1, band.outputs)
    group, channel = groups_of_block(here.block, plan, band), channels_of_groups(here.block, 0, plan, band)
    first_window = here.column // plan.stride_x - (band.shared_x - 1)  # that of the first pixel that is read
    r = tl.arange(0, band.depth)
    column = (first_window * plan.stride_x - sizes.padding_x)[:, None] + r[None, :]
    inside = (column >= 0) & (column < sizes.width)
    image, kernel_start = start_of(source, here.batch), start_of(dynamic_kernel, here.batch)
    weights, bands = (), ()
    for t in tl.static_range(band.shared_x):
        pointers, in_band = band_of_windows(dynamic_kernel, kernel_start, here, group, t, sizes, plan, band, TRANSPOSED)
        weights, bands = weights + (pointers,), bands + (in_band,)
    sums = ()
    for _ in tl.static_range(plan.stride_y):
        sums = sums + (tl.zeros([pieces * band.groups, band.members, band.outputs], tl.float32),)
    for t in tl.static_range(band.shared_y):
        window = here.row - t
        is_window = (window >= 0) & (window < sizes.output_height)
        for k in tl.static_range(plan.kernel_height):
            row = window * plan.stride_y + k - sizes.padding_y
            is_row = is_window & (row >= 0) & (row < sizes.height)
            mask = image_mask(inside & is_row[:, None], channel, plan, band)
            pixels = tl.load(image_pointers(source, image, row, column, channel, plan), mask=mask, other=0.0)
            pixels = channels_by_pixels(pixels, plan, band)
            added = ()
            for o in tl.static_range(plan.stride_y):
                if o + t * plan.stride_y < plan.kernel_height:
                    place = row_place(dynamic_kernel, o + t * plan.stride_y, k, plan, band, TRANSPOSED)
                    weight = load_sum(weights, bands, place - as_index(t, plan) * dynamic_kernel.row, is_window, band)
                    added = added + (tl.dot(pixels, as_matrices(weight, plan), sums[o]),)
                else:
                    added = added + (sums[o],)
            sums = added
    to_column = (here.column - sizes.padding_x)[:, None] + tl.arange(0, band.outputs)[None, :]
    for o in tl.static_range(plan.stride_y):
        to_row = here.row * plan.stride_y + o - sizes.padding_y
        exist = ((to_row >= 0) & (to_row < sizes.height))[:, None] & (to_column >= 0) & (to_column < sizes.width)
        store_sums(y, start_of(y, here.batch), sums[o], to_row, to_column, exist, channel, plan, band)


@triton.jit
def band_of_windows(kernel, start, here, group, T: tl.constexpr, sizes, plan, band, TRANSPOSED: tl.constexpr):
    """Return pointers to weights ``[S, U, R, P]`` of the T-th last windows that cover the outputs, by the first rows of taps, and which
    of them are those of taps.
    """
    output = tl.arange(0, band.outputs)[None, :]
    behind = output // plan.stride_x  # windows after the first output's
    to_tap = output % plan.stride_x + T * plan.stride_x
    from_tap = tl.arange(0, band.depth)[:, None] - (band.shared_x - 1 - T + behind) * plan.stride_x
    window = (here.column // plan.stride_x)[:, None, None] + (behind - T)[None, :, :]
    is_tap = (to_tap < plan.kernel_width) & (from_tap >= 0) & (from_tap < plan.kernel_width)
    in_band = is_tap[None, :, :] & (window >= 0) & (window < sizes.output_width)
    by_group = plan.taps * plan.taps if band.packed else kernel.group
    by_column = plan.taps * plan.taps * plan.channel_groups if band.packed else kernel.column
    place = (as_index(here.row, plan) * kernel.row)[:, None, None] + as_index(window, plan) * by_column
    place += tap_place(kernel, to_tap, from_tap, plan, band, TRANSPOSED)[None, :, :]
    pointers = start + place[:, None, :, :] + (as_index(group, plan) * by_group)[None, :, None, None]
    return pointers, in_band[:, None, :, :]


@triton.jit
def tap_place(kernel, to_tap, from_tap, plan, band, TRANSPOSED: tl.constexpr):
    """Return where the weight from one tap to another lies behind that from the first to the first."""
    by_output = plan.taps if band.packed else kernel.component
    by_source = 1 if band.packed else kernel.tap
    if TRANSPOSED:
        place = as_index(to_tap, plan) * by_source + as_index(from_tap, plan) * by_output
    else:
        place = as_index(to_tap, plan) * by_output + as_index(from_tap, plan) * by_source
    return place


@triton.jit
def row_place(kernel, i, k, plan, band, TRANSPOSED: tl.constexpr):
    """Return where the weights from tap row k to tap row i lie behind those of the first rows."""
    return tap_place(kernel, i * plan.kernel_width, k * plan.kernel_width, plan, band, TRANSPOSED)


@triton.jit
def load_sum(weights, bands, place, is_window, band):
    """Return the sums of weights, ``[S, U, R, P]``, over the windows that cover a pixel along a row."""
    exist = is_window[:, None, None, None]
    total = tl.load(weights[0] + place, mask=bands[0] & exist, other=0.0)
    for t in tl.static_range(1, band.shared_x):
        total = total.to(tl.float32) + tl.load(weights[t] + place, mask=bands[t] & exist, other=0.0).to(tl.float32)
    return total
