"""A static kernel that mixes channels: what the windows read goes through the matrix units, tap by tap.

The static kernel lies as ``[K, C/groups, O]``, output channels next to each other.
"""

# mypy: ignore-errors

import triton
import triton.language as tl

from unified_extractor.ops.backends.triton.matrices import matrix, product, tile_of
from unified_extractor.ops.backends.triton.reading import sample
from unified_extractor.ops.backends.triton.tiles import channels_of, of_image, program, wide, windows_of
from unified_extractor.ops.backends.triton.tuning import tuned
from unified_extractor.ops.backends.triton.weights import weighted


@triton.jit
def mixing_weights(static, tap, channels, output, is_output, plan):
    """``[U*N, O]``: the static kernel at one tap, from these channels to these outputs of their convolution group."""
    flat = tl.arange(0, plan.tile_units * plan.tile_unit)
    unit, member = channels.first + flat // plan.tile_unit, channels.start + flat % plan.tile_unit
    exist = (unit < plan.units) & (member < plan.unit)
    row = tap * (plan.mixing_units * plan.unit) + unit % plan.mixing_units * plan.unit + member
    mask = exist[:, None] & is_output[None, :]
    return tl.load(static + row[:, None] * plan.all_outputs + output[None, :], mask=mask, other=0.0)


@triton.jit
def image_places(image, windows, output, plan):
    """Addresses ``[P, O]`` of output channels at windows."""
    place = windows.row * image.row + windows.column * image.column
    return place[:, None] + (wide(output, plan) * image.channel)[None, :]


@triton.jit
def pulled(gradient, start, static, tap, windows, channels, plan):
    """A tile: what a gradient of the outputs is worth to the values that tap read, ``sum_o S_ock * gradient_op``."""
    group = channels.first // plan.mixing_units
    total = tl.zeros(
        [windows.row.shape[0], plan.tile_units * plan.tile_unit], tl.float64 if plan.dtype == "float64" else tl.float32
    )
    for first in range(0, plan.outputs, plan.tile_outputs):
        output = first + tl.arange(0, plan.tile_outputs)
        is_output = output < plan.outputs
        output += group * plan.outputs
        mask = windows.exist[:, None] & is_output[None, :]
        value = tl.load(start + image_places(gradient, windows, output, plan), mask=mask, other=0.0)
        total += product(value, tl.trans(mixing_weights(static, tap, channels, output, is_output, plan)), plan)
    return tile_of(total, plan)


@tuned({"num_warps": 8, "num_stages": 1, "maxnreg": 255}, {"num_warps": 8, "num_stages": 2})
@triton.jit(do_not_specialize=["TUNED_FOR"])
def mix(x, static, dynamic, offsets, y, sizes, plan: tl.constexpr, TUNED_FOR):
    """``y_op = sum_kc S_ock * D_kp * x~_ckp``: sampled and weighed in registers, then a matrix product a tap and block of channels."""
    output_blocks: tl.constexpr = (plan.outputs + plan.tile_outputs - 1) // plan.tile_outputs
    groups: tl.constexpr = plan.units // plan.mixing_units
    blocks: tl.constexpr = plan.blocks // groups
    place = program(tl.cdiv(sizes.rows * sizes.columns, plan.tile_positions), groups * output_blocks, plan)
    windows = windows_of(place.tile, plan.tile_positions, sizes, plan)
    group = place.block // output_blocks
    output = place.block % output_blocks * plan.tile_outputs + tl.arange(0, plan.tile_outputs)
    is_output = output < plan.outputs
    output += group * plan.outputs
    image, kernel, moves = of_image(x, place.batch), of_image(dynamic, place.batch), of_image(offsets, place.batch)
    total = tl.zeros([plan.tile_positions, plan.tile_outputs], tl.float64 if plan.dtype == "float64" else tl.float32)
    for i in range(plan.rows):
        for j in range(plan.columns):
            tap = i * plan.columns + j
            for block in range(blocks):
                channels = channels_of(group * blocks + block, plan)
                value = sample(x, image, offsets, moves, i, j, windows, channels, sizes, plan)
                value = weighted(value, static, dynamic, kernel, 0, tap, tap, windows, channels, plan)
                total += product(matrix(value, plan), mixing_weights(static, tap, channels, output, is_output, plan), plan)
    mask = windows.exist[:, None] & is_output[None, :]
    tl.store(of_image(y, place.batch) + image_places(y, windows, output, plan), total, mask=mask)


@tuned({"num_warps": 8, "num_stages": 2})
@triton.jit(do_not_specialize=["images", "tiles", "tiles_a_sum", "TUNED_FOR"])
def mixing_gradient(gradient, x, dynamic, offsets, of_static, sizes, images, tiles, tiles_a_sum, plan: tl.constexpr, TUNED_FOR):
    """Partial sums of the static kernel's gradient, ``[sums, K, C/groups, O]``: one tap, block of channels, block of outputs a program."""
    output_blocks: tl.constexpr = (plan.outputs + plan.tile_outputs - 1) // plan.tile_outputs
    index = tl.program_id(0)
    output_block, rest = index % output_blocks, index // output_blocks
    block, rest = rest % plan.blocks, rest // plan.blocks
    tap, part = rest % plan.taps, rest // plan.taps
    channels = channels_of(block, plan)
    group = channels.first // plan.mixing_units
    output = output_block * plan.tile_outputs + tl.arange(0, plan.tile_outputs)
    is_output = output < plan.outputs
    output += group * plan.outputs
    columns: tl.constexpr = plan.tile_units * plan.tile_unit
    total = tl.zeros([columns, plan.tile_outputs], tl.float64 if plan.dtype == "float64" else tl.float32)
    for step in range(tiles_a_sum):
        tile = part * tiles_a_sum + step
        batch = (tl.minimum(tile // tiles, images - 1)).to(tl.int64)
        windows = windows_of(tile - batch.to(tl.int32) * tiles, plan.tile_positions, sizes, plan)
        image, kernel, moves = of_image(x, batch), of_image(dynamic, batch), of_image(offsets, batch)
        i, j = tap // plan.columns, tap % plan.columns
        value = sample(x, image, offsets, moves, i, j, windows, channels, sizes, plan)
        value = weighted(value, dynamic.data, dynamic, kernel, 0, tap, tap, windows, channels, plan)
        mask = windows.exist[:, None] & is_output[None, :]
        pull = tl.load(of_image(gradient, batch) + image_places(gradient, windows, output, plan), mask=mask, other=0.0)
        total += product(tl.trans(matrix(value, plan)), pull, plan)
    flat = tl.arange(0, columns)
    unit, member = channels.first + flat // plan.tile_unit, channels.start + flat % plan.tile_unit
    row = (part * plan.taps + tap).to(tl.int64) * (plan.mixing_units * plan.unit)
    row += unit % plan.mixing_units * plan.unit + member
    mask = ((unit < plan.units) & (member < plan.unit))[:, None] & is_output[None, :]
    tl.store(of_static + row[:, None] * plan.all_outputs + output[None, :], total, mask=mask)
