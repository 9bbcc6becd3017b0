"""The gradient of a dynamic kernel where it is nothing but products: on the regular grid, no static kernel, no other gradient wanted."""

# mypy: ignore-errors

import triton
import triton.language as tl

from unified_extractor.ops.backends.triton.eights import write_eight
from unified_extractor.ops.backends.triton.reading import regular
from unified_extractor.ops.backends.triton.tiles import (
    at_windows,
    channels_of,
    of_field,
    of_image,
    program,
    sum_over_members,
    windows_of,
)
from unified_extractor.ops.backends.triton.tuning import tuned


@tuned({"num_warps": 4}, {"num_warps": 8})
@triton.jit(do_not_specialize=["TUNED_FOR"])
def kernel_gradient(gradient, x, of_dynamic, sizes, plan: tl.constexpr, TUNED_FOR):
    """The gradient of a dynamic kernel alone, on the regular grid: products of the output's gradient with the taps, eight at once."""
    place = program(tl.cdiv(sizes.rows * sizes.columns, plan.tile_positions), plan.blocks, plan)
    channels, windows = channels_of(place.block, plan), windows_of(place.tile, plan.tile_positions, sizes, plan)
    image, start = of_image(x, place.batch), of_image(of_dynamic, place.batch)
    output = at_windows(gradient, of_image(gradient, place.batch), 0, windows, channels, plan)
    whole: tl.constexpr = plan.taps // 8 * 8
    for first in range(0, whole, 8):
        eight = (
            tap_product(output, x, image, first, windows, channels, sizes, plan),
            tap_product(output, x, image, first + 1, windows, channels, sizes, plan),
            tap_product(output, x, image, first + 2, windows, channels, sizes, plan),
            tap_product(output, x, image, first + 3, windows, channels, sizes, plan),
            tap_product(output, x, image, first + 4, windows, channels, sizes, plan),
            tap_product(output, x, image, first + 5, windows, channels, sizes, plan),
            tap_product(output, x, image, first + 6, windows, channels, sizes, plan),
            tap_product(output, x, image, first + 7, windows, channels, sizes, plan),
        )
        write_eight(of_dynamic, start, 0, first, windows, channels, 1, eight, plan)
    for tap in tl.static_range(whole, plan.taps):
        pair = tap_product(output, x, image, tap, windows, channels, sizes, plan)
        where, exist = of_field(of_dynamic, 0, tap, windows, channels, 1, plan)
        tl.store(start + where, pair, mask=exist)


@triton.jit
def tap_product(output, x, image, tap, windows, channels, sizes, plan):
    """A tap's products with the output's gradient, summed over the channels of a unit: a pair."""
    value = regular(x, image, tap // plan.columns, tap % plan.columns, windows, channels, sizes, plan)
    return sum_over_members(output * value, plan)
