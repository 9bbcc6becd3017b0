"""The gradient of a dynamic kernel where it is nothing but products: on the regular grid, no static kernel, no other gradient wanted.

That of a generated kernel is never written: it is at once multiplied by what the kernel was generated from.
"""

# mypy: ignore-errors

import triton
import triton.language as tl

from unified_extractor.ops.backends.triton.eights import join_eight, join_sixteen, write_eight
from unified_extractor.ops.backends.triton.generating import feature_at, from_pairs, kernels_at, map_rows, map_weights
from unified_extractor.ops.backends.triton.matrices import product
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
        eight = eight_products(output, x, image, first, windows, channels, sizes, plan)
        write_eight(of_dynamic, start, 0, first, windows, channels, 1, eight, plan)
    for tap in tl.static_range(whole, plan.taps):
        pair = tap_product(output, x, image, tap, windows, channels, sizes, plan)
        where, exist = of_field(of_dynamic, 0, tap, windows, channels, 1, plan)
        tl.store(start + where, pair, mask=exist)


@triton.jit
def eight_products(output, x, image, first, windows, channels, sizes, plan):
    """The products of taps ``first .. first + 7``, a pair each."""
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
    """A tap's products with the output's gradient, summed over the channels of a unit: a pair."""
    value = regular(x, image, tap // plan.columns, tap % plan.columns, windows, channels, sizes, plan)
    return sum_over_members(output * value, plan)


@tuned({"SCALE": 1, "num_warps": 4}, {"SCALE": 2, "num_warps": 4}, {"SCALE": 4, "num_warps": 8})
@triton.jit(do_not_specialize=["images", "shares", "TUNED_FOR"])
def map_gradient(
    gradient,
    x,
    dynamic,
    of_feature,
    of_weight,
    of_bias,
    sizes,
    images,
    shares,
    plan: tl.constexpr,
    TUNED_FOR,
    SCALE: tl.constexpr,
):
    """The gradients of a generated kernel's feature, weight and bias: shares, of a block of channels or of a program.

    ``of_feature`` ``[blocks, B, Ho, Wo, R]``; ``of_weight``, ``of_bias`` ``[programs, G*K, R]``, ``[programs, G*K]``, zero before: a
    program adds up ``steps`` tiles one after the other.
    """
    # sixteen at least, over which a product adds up
    positions: tl.constexpr = plan.tile_positions * SCALE if plan.tile_positions * SCALE > 16 else 16
    block, share = tl.program_id(0) % plan.blocks, tl.program_id(0) // plan.blocks
    channels = channels_of(block, plan)
    tiles = tl.cdiv(sizes.rows * sizes.columns, positions)
    steps = tl.cdiv(tiles * images, shares)
    rows: tl.constexpr = plan.units * plan.taps
    width: tl.constexpr = 8 if plan.tile_units > 1 else 16  # of a product's sums: sixteen at least
    depth = tl.arange(0, plan.tile_depth)
    for step in range(steps):
        tile = share * steps + step
        batch = tl.minimum(tile // tiles, images - 1).to(tl.int64)
        windows = windows_of(tile - batch.to(tl.int32) * tiles, positions, sizes, plan)
        image = of_image(x, batch)
        output = at_windows(gradient, of_image(gradient, batch), 0, windows, channels, plan)
        feature = feature_at(dynamic, of_image(dynamic, batch), windows, plan)
        pulled = tl.zeros([positions, plan.tile_depth], output.dtype)
        tl.debug_barrier()  # what another thread of this program added to its share is read next
        for first in range(0, plan.taps, width):
            pairs = join_eight(eight_products(output, x, image, first, windows, channels, sizes, plan))
            if width == 16:
                others = join_eight(eight_products(output, x, image, first + 8, windows, channels, sizes, plan))
                pairs = join_sixteen(pairs, others)
            row, exist = map_rows(first, channels, width, plan)
            values = tl.where(exist[None, :], from_pairs(pairs, plan), 0.0)
            if plan.normalization == "sigmoid":
                kernel = kernels_at(dynamic, feature, first, channels, width, plan)
                values *= kernel * (1.0 - kernel)
            pulled += product(values, map_weights(dynamic, row, exist, plan), plan)
            index = (share * rows).to(tl.int64) + row
            weights = of_weight + index[:, None] * plan.depth + depth[None, :]
            mask = exist[:, None] & (depth < plan.depth)[None, :]
            tl.store(weights, tl.load(weights, mask=mask, other=0.0) + product(tl.trans(values), feature, plan), mask=mask)
            biases = of_bias + index
            tl.store(biases, tl.load(biases, mask=exist, other=0.0) + tl.sum(values, 0), mask=exist)
        place = (block * images + batch) * sizes.rows * sizes.columns + windows.row * sizes.columns + windows.column
        pointers = of_feature + place[:, None] * plan.depth + depth[None, :]
        tl.store(pointers, pulled, mask=windows.exist[:, None] & (depth < plan.depth)[None, :])
