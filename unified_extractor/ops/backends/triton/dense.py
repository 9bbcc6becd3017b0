"""A dense or grouped static kernel: samples go through the matrix units, tap by tap.

The static kernel lies as ``[K, C/groups, O]``, output channels next to each other.
"""

# mypy: ignore-errors

import triton
import triton.language as tl

from unified_extractor.ops.backends.triton.matrices import matrix_to_tile, product, tile_to_matrix
from unified_extractor.ops.backends.triton.sampling import sample
from unified_extractor.ops.backends.triton.tiles import (
    as_index,
    channels_of_block,
    load_and_apply_weights,
    start_of,
    this_program,
    windows_of_tile,
)
from unified_extractor.ops.backends.triton.tuning import tuned


@triton.jit
def load_dense(static_kernel, tap, channels, output, is_output, plan):
    """Return one tap of the static kernel from these channels to these outputs of their convolution group, ``[J*N, O]``."""
    flat = tl.arange(0, plan.tile_channel_groups * plan.tile_group_channels)
    group = channels.first_group + flat // plan.tile_group_channels
    member = channels.first_member + flat % plan.tile_group_channels
    exist = (group < plan.channel_groups) & (member < plan.group_channels)
    first_row = tap * (plan.convolution_channel_groups * plan.group_channels)
    row = first_row + group % plan.convolution_channel_groups * plan.group_channels + member
    mask = exist[:, None] & is_output[None, :]
    return tl.load(static_kernel + row[:, None] * plan.output_channels + output[None, :], mask=mask, other=0.0)


@triton.jit
def output_places(image, windows, output, plan):
    """Return where output channels of windows lie inside an image, ``[P, O]``."""
    place = windows.row * image.row + windows.column * image.column
    return place[:, None] + (as_index(output, plan) * image.channel)[None, :]


@triton.jit
def dense_grad_samples(grad_y, start, static_kernel, tap, windows, channels, plan):
    """Return the gradient of a tap's weighted samples, ``sum_o S_ock * grad_output_op``, a tile."""
    convolution_group = channels.first_group // plan.convolution_channel_groups
    total = tl.zeros(
        [windows.row.shape[0], plan.tile_channel_groups * plan.tile_group_channels],
        tl.float64 if plan.dtype == "float64" else tl.float32,
    )
    for first in range(0, plan.convolution_outputs, plan.tile_outputs):
        output = first + tl.arange(0, plan.tile_outputs)
        is_output = output < plan.convolution_outputs
        output += convolution_group * plan.convolution_outputs
        mask = windows.exist[:, None] & is_output[None, :]
        value = tl.load(start + output_places(grad_y, windows, output, plan), mask=mask, other=0.0)
        total += product(value, tl.trans(load_dense(static_kernel, tap, channels, output, is_output, plan)), plan)
    return matrix_to_tile(total, plan)


@tuned({"num_warps": 8, "num_stages": 1, "maxnreg": 255}, {"num_warps": 8, "num_stages": 2})
@triton.jit(do_not_specialize=["TUNED_FOR"])
def dense(x, static_kernel, dynamic_kernel, offsets, y, sizes, plan: tl.constexpr, TUNED_FOR):
    """Write ``y_op = sum_kc S_ock * D_kp * x~_ckp``: samples are weighted in registers, then multiplied by S, a tap and block at a time."""
    output_blocks: tl.constexpr = (plan.convolution_outputs + plan.tile_outputs - 1) // plan.tile_outputs
    convolution_groups: tl.constexpr = plan.channel_groups // plan.convolution_channel_groups
    blocks: tl.constexpr = plan.blocks // convolution_groups
    tiles = tl.cdiv(sizes.output_height * sizes.output_width, plan.tile_positions)
    place = this_program(tiles, convolution_groups * output_blocks, plan)
    windows = windows_of_tile(place.tile, plan.tile_positions, sizes, plan)
    convolution_group = place.block // output_blocks
    output = place.block % output_blocks * plan.tile_outputs + tl.arange(0, plan.tile_outputs)
    is_output = output < plan.convolution_outputs
    output += convolution_group * plan.convolution_outputs
    batch = place.batch
    image, kernel_start, offsets_start = start_of(x, batch), start_of(dynamic_kernel, batch), start_of(offsets, batch)
    total = tl.zeros([plan.tile_positions, plan.tile_outputs], tl.float64 if plan.dtype == "float64" else tl.float32)
    for i in range(plan.kernel_height):
        for j in range(plan.kernel_width):
            tap = i * plan.kernel_width + j
            for block in range(blocks):
                channels = channels_of_block(convolution_group * blocks + block, plan)
                value = sample(x, image, offsets, offsets_start, i, j, windows, channels, sizes, plan)
                value = load_and_apply_weights(
                    value, static_kernel, dynamic_kernel, kernel_start, 0, tap, tap, windows, channels, plan
                )
                samples = tile_to_matrix(value, plan)
                total += product(samples, load_dense(static_kernel, tap, channels, output, is_output, plan), plan)
    mask = windows.exist[:, None] & is_output[None, :]
    tl.store(start_of(y, batch) + output_places(y, windows, output, plan), total, mask=mask)


@tuned({"num_warps": 8, "num_stages": 2})
@triton.jit(do_not_specialize=["images", "tiles", "tiles_a_sum", "TUNED_FOR"])
def dense_backward(
    grad_y, x, dynamic_kernel, offsets, grad_static_kernel, sizes, images, tiles, tiles_a_sum, plan: tl.constexpr, TUNED_FOR
):
    """Write partial sums of the static kernel's gradient, ``[sums, K, C/groups, O]``: one tap, block and block of outputs a program."""
    output_blocks: tl.constexpr = (plan.convolution_outputs + plan.tile_outputs - 1) // plan.tile_outputs
    index = tl.program_id(0)
    output_block, rest = index % output_blocks, index // output_blocks
    block, rest = rest % plan.blocks, rest // plan.blocks
    tap, partial_sum = rest % plan.taps, rest // plan.taps
    channels = channels_of_block(block, plan)
    convolution_group = channels.first_group // plan.convolution_channel_groups
    output = output_block * plan.tile_outputs + tl.arange(0, plan.tile_outputs)
    is_output = output < plan.convolution_outputs
    output += convolution_group * plan.convolution_outputs
    columns: tl.constexpr = plan.tile_channel_groups * plan.tile_group_channels
    total = tl.zeros([columns, plan.tile_outputs], tl.float64 if plan.dtype == "float64" else tl.float32)
    for step in range(tiles_a_sum):
        tile = partial_sum * tiles_a_sum + step
        batch = (tl.minimum(tile // tiles, images - 1)).to(tl.int64)
        windows = windows_of_tile(tile - batch.to(tl.int32) * tiles, plan.tile_positions, sizes, plan)
        image, kernel_start, offsets_start = start_of(x, batch), start_of(dynamic_kernel, batch), start_of(offsets, batch)
        i, j = tap // plan.kernel_width, tap % plan.kernel_width
        value = sample(x, image, offsets, offsets_start, i, j, windows, channels, sizes, plan)
        value = load_and_apply_weights(
            value, dynamic_kernel.data, dynamic_kernel, kernel_start, 0, tap, tap, windows, channels, plan
        )
        mask = windows.exist[:, None] & is_output[None, :]
        gradient = tl.load(start_of(grad_y, batch) + output_places(grad_y, windows, output, plan), mask=mask, other=0.0)
        total += product(tl.trans(tile_to_matrix(value, plan)), gradient, plan)
    flat = tl.arange(0, columns)
    group = channels.first_group + flat // plan.tile_group_channels
    member = channels.first_member + flat % plan.tile_group_channels
    row = (partial_sum * plan.taps + tap).to(tl.int64) * (plan.convolution_channel_groups * plan.group_channels)
    row += group % plan.convolution_channel_groups * plan.group_channels + member
    mask = ((group < plan.channel_groups) & (member < plan.group_channels))[:, None] & is_output[None, :]
    tl.store(grad_static_kernel + row[:, None] * plan.output_channels + output[None, :], total, mask=mask)
