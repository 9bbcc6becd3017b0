"""The gradient of a dynamic kernel on the regular grid, without static kernel: products of the output's gradient with the taps."""

# mypy: ignore-errors

import triton
import triton.language as tl

from unified_extractor.ops.backends.triton.sampling import sample_grid
from unified_extractor.ops.backends.triton.tap_vectors import store_eight_taps
from unified_extractor.ops.backends.triton.tiles import (
    channels_of_block,
    group_addresses,
    load_at_windows,
    start_of,
    sum_over_members,
    this_program,
    windows_of_tile,
)
from unified_extractor.ops.backends.triton.tuning import tuned


@tuned({"num_warps": 4}, {"num_warps": 8})
@triton.jit(do_not_specialize=["TUNED_FOR"])
def dynamic_kernel_backward(grad_y, x, grad_dynamic_kernel, sizes, plan: tl.constexpr, TUNED_FOR):
    """Write the gradient of a dynamic kernel, eight taps at once."""
    place = this_program(tl.cdiv(sizes.output_height * sizes.output_width, plan.tile_positions), plan.blocks, plan)
    channels, windows = channels_of_block(place.block, plan), windows_of_tile(place.tile, plan.tile_positions, sizes, plan)
    image, start = start_of(x, place.batch), start_of(grad_dynamic_kernel, place.batch)
    output = load_at_windows(grad_y, start_of(grad_y, place.batch), 0, windows, channels, plan)
    whole: tl.constexpr = plan.taps // 8 * 8
    for first in range(0, whole, 8):
        eight = eight_products(output, x, image, first, windows, channels, sizes, plan)
        store_eight_taps(grad_dynamic_kernel, start, 0, first, windows, channels, 1, eight, plan)
    for tap in tl.static_range(whole, plan.taps):
        group_tile = tap_product(output, x, image, tap, windows, channels, sizes, plan)
        where, exist = group_addresses(grad_dynamic_kernel, 0, tap, windows, channels, 1, plan)
        tl.store(start + where, group_tile, mask=exist)


@triton.jit
def eight_products(output, x, image, first, windows, channels, sizes, plan):
    """Return the products of taps ``first .. first + 7``, a group tile each."""
    return (
        tap_product(output, x, image, first, windows, channels, sizes, plan),
        tap_product(output, x, image, first + 1, windows, channels, sizes, plan),
        tap_product(output, x, image, first + 2, windows, channels, sizes, plan),
        tap_product(output, x, image, first + 3, windows, channels, sizes, plan),
        tap_product(output, x, image, first + 4, windows, channels, sizes, plan),
        tap_product(output, x, image, first + 5, windows, channels, sizes, plan),
        tap_product(output, x, image, first + 6, windows, channels, sizes, plan),
        tap_product(output, x, image, first + 7, windows, channels, sizes, plan),
    )


@triton.jit
def tap_product(output, x, image, tap, windows, channels, sizes, plan):
    """Return a tap times the output's gradient, summed over the channels of each group: a group tile."""
    value = sample_grid(x, image, tap // plan.kernel_width, tap % plan.kernel_width, windows, channels, sizes, plan)
    return sum_over_members(output * value, plan)
