"""The gradient of a fold's dynamic kernel: the band of products of pixels with the output's gradient at pixels.

Letters: ``pieces.py``. R pixels that source taps reach, P pixels that output taps reach, both those of the windows of a piece.
"""

# mypy: ignore-errors

import triton
import triton.language as tl

from unified_extractor.ops.backends.triton.banded.fold import row_place, tap_place
from unified_extractor.ops.backends.triton.banded.pieces import (
    channels_by_pixels,
    channels_of_groups,
    groups_of_block,
    image_mask,
    image_pointers,
    pieces_of_program,
    pixels_by_channels,
)
from unified_extractor.ops.backends.triton.tiles import as_index, start_of
from unified_extractor.ops.backends.triton.tuning import tuned


@tuned(
    {"PIECES": 2, "num_warps": 4},
    {"PIECES": 4, "num_warps": 4},
    {"PIECES": 4, "num_warps": 8},
)
@triton.jit(do_not_specialize=["TUNED_FOR"])
def banded_fold_kernel_gradient(
    grad_y,
    x,
    grad_dynamic_kernel,
    sizes,
    plan: tl.constexpr,
    band: tl.constexpr,
    TUNED_FOR,
    PIECES: tl.constexpr,
):
    """Write the gradients of PIECES pieces of windows a program, by all pairs of taps."""
    pieces: tl.constexpr = PIECES * band.spare
    here = pieces_of_program(sizes.output_height, sizes.output_width, 1, 1, band.group_blocks, pieces, 1, band.windows)
    group, channel = groups_of_block(here.block, plan, band), channels_of_groups(here.block, 0, plan, band)
    column = (here.column * plan.stride_x - sizes.padding_x)[:, None] + tl.arange(0, band.depth)[None, :]
    inside = (column >= 0) & (column < sizes.width)
    results, exist = (), ()
    start = start_of(grad_dynamic_kernel, here.batch)
    for t in tl.static_range(band.shared_x):
        pointers, is_tap = taps_of_products(grad_dynamic_kernel, start, here, group, t, sizes, plan, band)
        results, exist = results + (pointers,), exist + (is_tap,)
    gradients = ()
    for i in tl.static_range(plan.kernel_height):
        tile = load_row(grad_y, here, i, column, inside, channel, sizes, plan, band)
        gradients = gradients + (channels_by_pixels(tile, plan, band),)
    for k in tl.static_range(plan.kernel_height):
        pixels = pixels_by_channels(load_row(x, here, k, column, inside, channel, sizes, plan, band), plan, band)
        for i in tl.static_range(plan.kernel_height):
            products = tl.dot(pixels, gradients[i])
            products = tl.reshape(products, [pieces, band.groups, band.depth, band.depth])
            products = products.to(grad_dynamic_kernel.data.dtype.element_ty)
            place = row_place(grad_dynamic_kernel, i, k, plan, band, False)
            for t in tl.static_range(band.shared_x):
                tl.store(results[t] + place, products, mask=exist[t])


@triton.jit
def load_row(image, here, tap_row, column, inside, channel, sizes, plan, band):
    """Return the pixels ``[S, R, U*N]`` that a row of the windows' taps reaches."""
    row = here.row * plan.stride_y + tap_row - sizes.padding_y
    mask = image_mask(inside & ((row >= 0) & (row < sizes.height))[:, None], channel, plan, band)
    return tl.load(image_pointers(image, start_of(image, here.batch), row, column, channel, plan), mask=mask, other=0.0)


@triton.jit
def taps_of_products(kernel, start, here, group, T: tl.constexpr, sizes, plan, band):
    """Return pointers ``[S, U, R, P]`` to the weights of the T-th last windows that cover both pixels, by the first rows of taps, and
    which of them exist.
    """
    r, p = tl.arange(0, band.depth)[:, None], tl.arange(0, band.depth)[None, :]
    behind = tl.minimum(r, p) // plan.stride_x - T  # windows after the piece's first
    from_tap, to_tap = r - behind * plan.stride_x, p - behind * plan.stride_x
    is_tap = (behind >= 0) & (behind < band.windows) & (from_tap < plan.kernel_width) & (to_tap < plan.kernel_width)
    window = here.column[:, None, None] + behind[None, :, :]
    exist = (is_tap[None, :, :] & (window < sizes.output_width))[:, None, :, :]
    if not band.is_whole:
        exist &= (here.block * band.groups + tl.arange(0, band.groups) < plan.channel_groups)[None, :, None, None]
    by_group = plan.taps * plan.taps if band.packed else kernel.group
    by_column = plan.taps * plan.taps * plan.channel_groups if band.packed else kernel.column
    place = (as_index(here.row, plan) * kernel.row)[:, None, None] + as_index(window, plan) * by_column
    place += tap_place(kernel, to_tap, from_tap, plan, band, False)[None, :, :]
    return start + place[:, None, :, :] + (as_index(group, plan) * by_group)[None, :, None, None], exist
