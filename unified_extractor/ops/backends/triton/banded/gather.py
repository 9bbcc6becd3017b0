"""Gather as banded products: the weighted sum of each window.

Letters: ``pieces.py``.
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
from unified_extractor.ops.backends.triton.banded.weights import as_matrices, load_weights, window_pointers
from unified_extractor.ops.backends.triton.tiles import as_index, start_of
from unified_extractor.ops.backends.triton.tuning import tuned


@tuned(
    {"PIECES": 4, "ROWS": 2, "num_warps": 4},
    {"PIECES": 2, "ROWS": 4, "num_warps": 4},
    {"PIECES": 4, "ROWS": 1, "num_warps": 4},
    {"PIECES": 4, "ROWS": 4, "num_warps": 8},
)
@triton.jit(do_not_specialize=["TUNED_FOR"])
def banded_gather(
    x,
    dynamic_kernel,
    y,
    sizes,
    plan: tl.constexpr,
    band: tl.constexpr,
    TUNED_FOR,
    PIECES: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Write the outputs of PIECES pieces of ROWS rows a program: each row of pixels is loaded once for all of them."""
    pieces: tl.constexpr = PIECES * band.spare
    height, width = sizes.output_height, sizes.output_width
    blocks: tl.constexpr = band.group_blocks * band.member_blocks
    here = pieces_of_program(height, width, band.classes_y, band.classes_x, blocks, pieces, ROWS, band.windows)
    group_block, member_block = here.block // band.member_blocks, here.block % band.member_blocks
    group, channel = groups_of_block(group_block, plan, band), channels_of_groups(group_block, member_block, plan, band)
    r, p = tl.arange(0, band.depth), tl.arange(0, band.windows)
    column = (here.column[:, None] + p[None, :]) * band.classes_x + here.class_x[:, None]
    window = tl.minimum(column, width - 1)[:, None, None, :]  # sums of windows behind the last are not written
    kernel_start = start_of(dynamic_kernel, here.batch)
    weights, sums = (), ()
    for o in tl.static_range(ROWS):
        row = tl.minimum((here.row + o) * band.classes_y + here.class_y, height - 1)
        weights = weights + (window_pointers(dynamic_kernel, kernel_start, row, window, group, plan, band),)
        sums = sums + (tl.zeros([pieces * band.groups, band.members, band.windows], tl.float32),)
    top = (here.row * band.classes_y + here.class_y) * plan.stride_y - sizes.padding_y
    left = (here.column * band.classes_x + here.class_x) * plan.stride_x - sizes.padding_x
    image = start_of(x, here.batch)
    for chunk in tl.static_range(band.pixel_chunks):
        tap_column = chunk * band.depth + r[:, None] - band.step_x * p[None, :]
        in_band = ((tap_column >= 0) & (tap_column < plan.kernel_width))[None, None, :, :]
        pixel = left[:, None] + (chunk * band.depth + r)[None, :] * plan.dilation_x
        inside = (pixel >= 0) & (pixel < sizes.width)
        pointers = image_pointers(x, image, top, pixel, channel, plan)
        taps = tap_column[None, None, :, :]
        for n in tl.static_range((ROWS - 1) * band.step_y + plan.kernel_height):
            down = n * plan.dilation_y
            is_row = (top + down >= 0) & (top + down < sizes.height)
            mask = image_mask(inside & is_row[:, None], channel, plan, band)
            pixels = tl.load(pointers + as_index(down, plan) * x.row, mask=mask, other=0.0)
            pixels = channels_by_pixels(pixels, plan, band)
            added = ()
            for o in tl.static_range(ROWS):
                if n >= o * band.step_y and n - o * band.step_y < plan.kernel_height:
                    tap = taps + (n - o * band.step_y) * plan.kernel_width
                    band_of_row = as_matrices(load_weights(dynamic_kernel, weights[o], tap, in_band, plan, band), plan)
                    added = added + (tl.dot(pixels, band_of_row, sums[o]),)
                else:
                    added = added + (sums[o],)
            sums = added
    for o in tl.static_range(ROWS):
        row = (here.row + o) * band.classes_y + here.class_y
        exist = (row < height)[:, None] & (column < width)
        store_sums(y, start_of(y, here.batch), sums[o], row, column, exist, channel, plan, band)
