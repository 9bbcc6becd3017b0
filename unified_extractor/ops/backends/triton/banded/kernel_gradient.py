"""The dynamic kernel's gradient as banded products: the band of products of pixels and windows' gradients. Also query-key products.

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
    pixels_by_channels,
)
from unified_extractor.ops.backends.triton.banded.weights import tap_place, window_pointers
from unified_extractor.ops.backends.triton.tiles import as_index, start_of
from unified_extractor.ops.backends.triton.tuning import tuned


@tuned(
    {"PIECES": 2, "ROWS": 4, "num_warps": 4},
    {"PIECES": 4, "ROWS": 2, "num_warps": 4},
    {"PIECES": 4, "ROWS": 1, "num_warps": 4},
    {"PIECES": 4, "ROWS": 4, "num_warps": 8},
)
@triton.jit(do_not_specialize=["TUNED_FOR"])
def banded_kernel_gradient(
    grad_y,
    x,
    grad_dynamic_kernel,
    sizes,
    plan: tl.constexpr,
    band: tl.constexpr,
    TUNED_FOR,
    PIECES: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Write the gradients of PIECES pieces of ROWS rows of windows a program, by all taps."""
    pieces: tl.constexpr = PIECES * band.spare
    height, width = sizes.output_height, sizes.output_width
    here = pieces_of_program(height, width, band.classes_y, band.classes_x, band.group_blocks, pieces, ROWS, band.windows)
    group = groups_of_block(here.block, plan, band)
    r, p = tl.arange(0, band.depth), tl.arange(0, band.windows)
    column = (here.column[:, None] + p[None, :]) * band.classes_x + here.class_x[:, None]
    exist = column < width
    if not band.is_whole:
        exist_group = (here.block * band.groups + tl.arange(0, band.groups) < plan.channel_groups)[None, :, None, None]
    top = (here.row * band.classes_y + here.class_y) * plan.stride_y - sizes.padding_y
    left = (here.column * band.classes_x + here.class_x) * plan.stride_x - sizes.padding_x
    image, result = start_of(x, here.batch), start_of(grad_dynamic_kernel, here.batch)
    results = ()
    for o in tl.static_range(ROWS):
        row = (here.row + o) * band.classes_y + here.class_y
        results = results + (window_pointers(grad_dynamic_kernel, result, row, column[:, None, None, :], group, plan, band),)
    if band.member_blocks == 1:
        gradients = load_gradients(grad_y, here, column, 0, height, width, plan, band, ROWS)
    for chunk in tl.static_range(band.pixel_chunks):
        tap_column = (chunk * band.depth + r[:, None] - band.step_x * p[None, :])[None, None, :, :]
        in_band = (tap_column >= 0) & (tap_column < plan.kernel_width) & exist[:, None, None, :]
        if not band.is_whole:
            in_band &= exist_group
        pixel = left[:, None] + (chunk * band.depth + r)[None, :] * plan.dilation_x
        inside = (pixel >= 0) & (pixel < sizes.width)
        for n in tl.static_range((ROWS - 1) * band.step_y + plan.kernel_height):
            down = n * plan.dilation_y
            is_row = (top + down >= 0) & (top + down < sizes.height)
            sums = ()
            for _ in tl.static_range(ROWS):
                sums = sums + (tl.zeros([pieces * band.groups, band.depth, band.windows], tl.float32),)
            for block in tl.static_range(band.member_blocks):
                channel = channels_of_groups(here.block, block, plan, band)
                pointers = image_pointers(x, image, top, pixel, channel, plan) + as_index(down, plan) * x.row
                pixels = tl.load(pointers, mask=image_mask(inside & is_row[:, None], channel, plan, band), other=0.0)
                pixels = pixels_by_channels(pixels, plan, band)
                if band.member_blocks > 1:
                    gradients = load_gradients(grad_y, here, column, block, height, width, plan, band, ROWS)
                added = ()
                for o in tl.static_range(ROWS):
                    if n >= o * band.step_y and n - o * band.step_y < plan.kernel_height:
                        added = added + (tl.dot(pixels, gradients[o], sums[o]),)
                    else:
                        added = added + (sums[o],)
                sums = added
            for o in tl.static_range(ROWS):
                if n >= o * band.step_y and n - o * band.step_y < plan.kernel_height:
                    row = (here.row + o) * band.classes_y + here.class_y
                    tap = tap_column + (n - o * band.step_y) * plan.kernel_width
                    weights = tl.reshape(sums[o], [pieces, band.groups, band.depth, band.windows])
                    tl.store(
                        results[o] + tap_place(grad_dynamic_kernel, tap, plan, band),
                        weights.to(grad_dynamic_kernel.data.dtype.element_ty),
                        mask=in_band & (row < height)[:, None, None, None],
                    )


@triton.jit
def load_gradients(grad_y, here, column, member_block, height, width, plan, band, ROWS: tl.constexpr):
    """Return the gradients of windows by some channels of their groups as operands of products, ``[S*U, N, P]`` each, a row each."""
    channel = channels_of_groups(here.block, member_block, plan, band)
    start, found = start_of(grad_y, here.batch), ()
    for o in tl.static_range(ROWS):
        row = (here.row + o) * band.classes_y + here.class_y
        mask = image_mask((row < height)[:, None] & (column < width), channel, plan, band)
        gradients = tl.load(image_pointers(grad_y, start, row, column, channel, plan), mask=mask, other=0.0)
        found = found + (channels_by_pixels(gradients, plan, band),)
    return found
