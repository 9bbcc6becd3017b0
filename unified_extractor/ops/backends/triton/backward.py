"""The gradients of kernels and offsets, and of an image that was sampled at offsets.

A program has a tile of windows, reads the gradient of their outputs once, and goes through the taps.
"""

# mypy: ignore-errors

from typing import Any, NamedTuple

import triton
import triton.language as tl

from unified_extractor.ops.backends.triton.sampling import (
    bilinear,
    bilinear_derivatives,
    corner_place,
    is_pixel,
    load_corners,
    offset_position,
    sample_grid,
)
from unified_extractor.ops.backends.triton.tiles import (
    Program,
    as_index,
    at_groups,
    at_positions,
    channels_of_block,
    combine,
    load_at_windows,
    load_depthwise,
    load_group_tile,
    mask_of,
    over_members,
    pointers_to,
    start_of,
    store_at_windows,
    sum_over_members,
    sum_over_positions,
    this_program,
    windows_of_tile,
    zeros,
)
from unified_extractor.ops.backends.triton.tuning import tuned


class Inputs(NamedTuple):
    """The tensors that gradients are computed from; a depthwise static kernel as ``[K, 1, C]``."""

    grad_y: Any
    x: Any
    static_kernel: Any
    dynamic_kernel: Any
    offsets: Any


class Gradients(NamedTuple):
    """The memory of the gradients; without data where they are not wanted."""

    x: Any
    """The image's gradient, added to by atomics."""
    columns: Any
    """The gradient of what every tap sampled, ``[B, C, K, Ho, Wo]``."""
    static_kernel: Any
    """Partial sums of a depthwise static kernel's gradient, ``[B, programs of an image, K, C]``."""
    dynamic_kernel: Any
    """Partial sums of the dynamic kernel's gradient, one for each block of a group's channels."""
    offsets: Any
    """Partial sums of the offsets' gradient, likewise."""


@tuned(
    {"num_warps": 4, "maxnreg": 240},
    {"num_warps": 8, "maxnreg": 168},
)
@triton.jit(do_not_specialize=["TUNED_FOR"])
def backward(
    grad_y,
    x,
    static_kernel,
    dynamic_kernel,
    offsets,
    grad_x,
    grad_columns,
    grad_static_kernel,
    grad_dynamic_kernel,
    grad_offsets,
    sizes,
    plan: tl.constexpr,
    STEPS: tl.constexpr,
    GRAD_X: tl.constexpr,
    TUNED_FOR,
):
    """Write the gradients that have memory. A program has STEPS tiles one after the other; GRAD_X: there is memory for the image's."""
    inputs = Inputs(grad_y, x, static_kernel, dynamic_kernel, offsets)
    gradients = Gradients(grad_x, grad_columns, grad_static_kernel, grad_dynamic_kernel, grad_offsets)
    tiles = tl.cdiv(sizes.output_height * sizes.output_width, plan.tile_positions)
    programs = tl.cdiv(tiles, STEPS)
    place = this_program(programs, plan.blocks, plan)
    partial_sum = place.batch * programs + place.tile
    for step in range(STEPS):
        here = Program(place.batch, place.block, place.tile * STEPS + step)
        channels, windows = channels_of_block(here.block, plan), windows_of_tile(here.tile, plan.tile_positions, sizes, plan)
        tl.debug_barrier()  # what another thread of this program wrote into the partial sum is read next
        for i in range(plan.kernel_height):
            for j in range(plan.kernel_width):
                tap_backward(inputs, gradients, i, j, here, tiles, partial_sum, step, windows, channels, sizes, plan, GRAD_X)


@triton.jit
def tap_backward(
    inputs,
    gradients,
    i,
    j,
    place,
    tiles,
    partial_sum,
    step,
    windows,
    channels,
    sizes,
    plan: tl.constexpr,
    GRAD_X: tl.constexpr,
):
    """Write the gradients of a tile by tap (i, j)."""
    tap = i * plan.kernel_width + j
    image, start = start_of(inputs.x, place.batch), start_of(inputs.grad_y, place.batch)
    if plan.has_offsets:
        offsets_start = start_of(inputs.offsets, place.batch)
        position = offset_position(inputs.offsets, offsets_start, i, j, windows, channels, sizes, plan)
        corners = load_corners(inputs.x, image, position, channels, sizes, plan)
        value = bilinear(position, corners, plan)
    else:
        value = sample_grid(inputs.x, image, i, j, windows, channels, sizes, plan)
    static_weight = load_depthwise(inputs.static_kernel, tap, channels, plan) if plan.static_kernel == "depthwise" else 1.0
    grad_value, grad_static = zeros(plan.tile_positions, plan), zeros(plan.tile_positions, plan)
    for output_tap in range(plan.output_taps):
        if plan.aggregation == "fold":
            row, column = output_tap // plan.kernel_width, output_tap % plan.kernel_width
            output = sample_grid(inputs.grad_y, start, row, column, windows, channels, sizes, plan)
        else:
            output = load_at_windows(inputs.grad_y, start, tap, windows, channels, plan)
        product = output * value
        if plan.has_dynamic_kernel:
            kernel_start = start_of(inputs.dynamic_kernel, place.batch)
            group_tile = load_group_tile(
                inputs.dynamic_kernel, kernel_start, output_tap, tap, windows, channels, plan.kernel_channel_groups, plan
            )
            dynamic_weight = over_members(group_tile, plan)
            weight = combine(static_weight, dynamic_weight, plan) if plan.static_kernel == "depthwise" else dynamic_weight
            grad_value += output * weight
            grad_static += product * derivative_by_static(dynamic_weight, plan)
        else:
            grad_value += output * static_weight
            grad_static += product
        if gradients.dynamic_kernel.data is not None:
            grad_dynamic = sum_over_members(product * derivative_by_dynamic(static_weight, plan), plan)
            store_group_sum(gradients.dynamic_kernel, place, tiles, output_tap, tap, grad_dynamic, windows, channels, plan, False)
    if gradients.static_kernel is not None:
        weights = sum_over_positions(grad_static, plan)
        add_static_sum(gradients.static_kernel, partial_sum, step, tap, weights, channels, plan)
    if plan.has_offsets:
        if gradients.offsets.data is not None:
            by_y, by_x = bilinear_derivatives(position, corners, plan)
            by_y = tl.where(position.inside, sum_over_members(grad_value * by_y, plan), 0.0)
            by_x = tl.where(position.inside, sum_over_members(grad_value * by_x, plan), 0.0)
            store_group_sum(gradients.offsets, place, tiles, 0, tap, by_y, windows, channels, plan, True)
            store_group_sum(gradients.offsets, place, tiles, 1, tap, by_x, windows, channels, plan, True)
        if GRAD_X:
            add_to_corners(gradients.x, start_of(gradients.x, place.batch), position, grad_value, channels, sizes, plan)
        if gradients.columns.data is not None:
            columns_start = start_of(gradients.columns, place.batch)
            store_at_windows(gradients.columns, columns_start, tap, windows, channels, grad_value, plan)


@triton.jit
def derivative_by_dynamic(static_weight, plan):
    """Return the derivative of a tap's weight by that of the dynamic kernel."""
    return 1.0 if plan.combine == "add" else static_weight


@triton.jit
def derivative_by_static(dynamic_weight, plan):
    """Return the derivative of a tap's weight by that of the static kernel."""
    if plan.combine == "add":
        factor = 1.0
    elif plan.combine == "residual":
        factor = 1.0 + dynamic_weight
    else:
        factor = dynamic_weight
    return factor


@triton.jit
def store_group_sum(target, place, tiles, component, tap, group_tile, windows, channels, plan, OFFSETS: tl.constexpr):
    """Write a tile's partial sum of a gradient that the channels of a group, and perhaps all positions, share.

    The gradient is that of the offsets or of the dynamic kernel. Partial sums of different tiles lie apart: they are added up later,
    always in one order.
    """
    groups_sharing: tl.constexpr = plan.offset_channel_groups if OFFSETS else plan.kernel_channel_groups
    blocks: tl.constexpr = plan.offset_blocks if OFFSETS else plan.kernel_blocks
    same_everywhere: tl.constexpr = plan.one_offset if OFFSETS else plan.one_kernel
    if groups_sharing > 1:
        group_tile = tl.sum(group_tile, 1 if plan.channels_last else 0, keep_dims=True)
        index = channels.first_group // groups_sharing + tl.zeros([1], tl.int32)
        exist = index >= 0
    else:
        index, exist = channels.group, channels.is_group
    address, mask = at_groups(index * target.group, plan), at_groups(exist, plan)
    partial_sum = place.block % blocks
    if same_everywhere:
        group_tile = tl.sum(group_tile, 0 if plan.channels_last else 1, keep_dims=True)
        partial_sum = partial_sum * tiles + place.tile
        mask = mask & at_groups(place.tile + tl.zeros_like(index) < tiles, plan)
    else:
        address = at_positions(windows.row * target.row + windows.column * target.column, plan) + address
        mask = at_positions(windows.exist, plan) & mask
    address += as_index(component, plan) * target.component + as_index(tap, plan) * target.tap
    tl.store(start_of(target, place.batch) + partial_sum.to(tl.int64) * target.partial_sum + address, group_tile, mask=mask)


@triton.jit
def add_static_sum(target, partial_sum, step, tap, weights, channels, plan):
    """Add weights of channels, ``[J, N]``, to a program's partial sum of the static kernel's gradient."""
    channel = channels.group[:, None] * plan.group_channels + channels.member[None, :]
    pointers = target + (partial_sum * plan.taps + tap) * (plan.channel_groups * plan.group_channels) + channel
    mask = channels.is_group[:, None] & channels.is_member[None, :]
    if step > 0:
        weights += tl.load(pointers, mask=mask, other=0.0)
    tl.store(pointers, weights, mask=mask)


@triton.jit
def add_to_corners(target, start, position, value, channels, sizes, plan):
    """Add a tile to the four pixels around its positions, with the weights of the bilinear sample."""
    below, right = over_members(position.below, plan), over_members(position.right, plan)
    upper, lower = (1.0 - below) * value, below * value
    add_to_corner(target, start, position, 0, 0, (1.0 - right) * upper, channels, sizes, plan)
    add_to_corner(target, start, position, 0, 1, right * upper, channels, sizes, plan)
    add_to_corner(target, start, position, 1, 0, (1.0 - right) * lower, channels, sizes, plan)
    add_to_corner(target, start, position, 1, 1, right * lower, channels, sizes, plan)


@triton.jit
def add_to_corner(target, start, position, below, right, value, channels, sizes, plan):
    """Add a tile to one corner of every position, in float32 and in no particular order."""
    mask = mask_of(is_pixel(position, below, right, sizes), channels, plan)
    pointers = pointers_to(target, start, corner_place(target, position, below, right), channels, plan)
    tl.atomic_add(pointers, value, mask=mask, sem="relaxed")
