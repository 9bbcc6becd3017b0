"""The gradient of a dynamic kernel on the regular grid, without static kernel: products of the output's gradient with the taps.

The gradient of a computed kernel is never written: it is at once multiplied by what the kernel was computed from.
"""

# mypy: ignore-errors

import triton
import triton.language as tl

from unified_extractor.ops.backends.triton.dynamic_kernel import (
    compute_taps,
    from_vectors,
    load_feature,
    load_map_weights,
    map_rows,
)
from unified_extractor.ops.backends.triton.matrices import product
from unified_extractor.ops.backends.triton.sampling import sample_grid
from unified_extractor.ops.backends.triton.tap_vectors import join_eight, join_sixteen, store_eight_taps
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


@tuned({"SCALE": 1, "num_warps": 4}, {"SCALE": 2, "num_warps": 4}, {"SCALE": 4, "num_warps": 8})
@triton.jit(do_not_specialize=["images", "partial_sums", "TUNED_FOR"])
def linear_map_backward(
    grad_y,
    x,
    linear_map,
    grad_feature,
    grad_weight,
    grad_bias,
    sizes,
    images,
    partial_sums,
    plan: tl.constexpr,
    TUNED_FOR,
    SCALE: tl.constexpr,
):
    """Write partial sums of the gradients of what a dynamic kernel is computed from: a feature, and a map's weight and bias.

    ``grad_feature`` ``[blocks, B, Ho, Wo, R]`` has one for each block of channels; ``grad_weight`` ``[partial_sums, G*K, R]`` and
    ``grad_bias`` ``[partial_sums, G*K]``, zero before, have one for each program, which adds up several tiles one after the other.
    """
    # sixteen at least, over which a product adds up
    positions: tl.constexpr = plan.tile_positions * SCALE if plan.tile_positions * SCALE > 16 else 16
    block, partial_sum = tl.program_id(0) % plan.blocks, tl.program_id(0) // plan.blocks
    channels = channels_of_block(block, plan)
    tiles = tl.cdiv(sizes.output_height * sizes.output_width, positions)
    steps = tl.cdiv(tiles * images, partial_sums)
    rows: tl.constexpr = plan.channel_groups * plan.taps
    width: tl.constexpr = 8 if plan.tile_channel_groups > 1 else 16  # of a product's sums: sixteen at least
    channel = tl.arange(0, plan.tile_feature_channels)
    for step in range(steps):
        tile = partial_sum * steps + step
        batch = tl.minimum(tile // tiles, images - 1).to(tl.int64)
        windows = windows_of_tile(tile - batch.to(tl.int32) * tiles, positions, sizes, plan)
        image = start_of(x, batch)
        output = load_at_windows(grad_y, start_of(grad_y, batch), 0, windows, channels, plan)
        feature = load_feature(linear_map, start_of(linear_map, batch), windows, plan)
        feature_sum = tl.zeros([positions, plan.tile_feature_channels], output.dtype)
        tl.debug_barrier()  # what another thread of this program added to its partial sum is read next
        for first in range(0, plan.taps, width):
            vectors = join_eight(eight_products(output, x, image, first, windows, channels, sizes, plan))
            if width == 16:
                others = join_eight(eight_products(output, x, image, first + 8, windows, channels, sizes, plan))
                vectors = join_sixteen(vectors, others)
            row, exist = map_rows(first, channels, width, plan)
            grad_kernel = tl.where(exist[None, :], from_vectors(vectors, plan), 0.0)
            if plan.normalization == "sigmoid":
                kernel = compute_taps(linear_map, feature, first, channels, width, plan)
                grad_kernel *= kernel * (1.0 - kernel)
            feature_sum += product(grad_kernel, load_map_weights(linear_map, row, exist, plan), plan)
            index = (partial_sum * rows).to(tl.int64) + row
            weights = grad_weight + index[:, None] * plan.feature_channels + channel[None, :]
            mask = exist[:, None] & (channel < plan.feature_channels)[None, :]
            weight_sum = tl.load(weights, mask=mask, other=0.0) + product(tl.trans(grad_kernel), feature, plan)
            tl.store(weights, weight_sum, mask=mask)
            biases = grad_bias + index
            tl.store(biases, tl.load(biases, mask=exist, other=0.0) + tl.sum(grad_kernel, 0), mask=exist)
        first_place = (block * images + batch) * sizes.output_height * sizes.output_width
        place = first_place + windows.row * sizes.output_width + windows.column
        pointers = grad_feature + place[:, None] * plan.feature_channels + channel[None, :]
        tl.store(pointers, feature_sum, mask=windows.exist[:, None] & (channel < plan.feature_channels)[None, :])
