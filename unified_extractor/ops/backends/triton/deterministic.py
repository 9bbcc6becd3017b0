"""The gradient of an image sampled at offsets, the same bit for bit every time: sorted by pixel instead of added in any order."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from unified_extractor.ops.backends.triton.planning import image_of, sizes_of
from unified_extractor.ops.backends.triton.records import Plan
from unified_extractor.ops.backends.triton.tiles import start_of
from unified_extractor.ops.backends.triton.tuning import start, tuned
from unified_extractor.ops.call import Call
from unified_extractor.ops.geometry import Geometry, precision


@tuned({"num_warps": 1})
@triton.jit(do_not_specialize=["TUNED_FOR"])
def collect(columns, weights, order, begins, y, sizes, plan: tl.constexpr, TUNED_FOR):  # type: ignore[no-untyped-def]
    """Write the image's gradient from that of the columns, without atomics; a pixel and block of channels a program.

    Each pixel sums the gradients of the samples it was a corner of, in the order of taps and windows. ``weights`` and ``order``
    ``[B, F, 4*K*P]`` are the bilinear weights of all corners of all samples, and the corners sorted by their pixel; ``begins``
    ``[B, F, H*W + 1]`` are the places in that order at which each pixel's corners begin.
    """
    pixels, positions = sizes.height * sizes.width, sizes.output_height * sizes.output_width
    index, block = tl.program_id(0), tl.program_id(1)
    pixel, batch = (index % pixels).to(tl.int64), (index // pixels).to(tl.int64)
    channel_group, start = (block // plan.group_blocks).to(tl.int64), block % plan.group_blocks * plan.tile_group_channels
    member = start + tl.arange(0, plan.tile_group_channels)
    mask = member < plan.group_channels
    group = batch * (plan.channel_groups // plan.offset_channel_groups) + channel_group // plan.offset_channel_groups
    first, last = tl.load(begins + group * (pixels + 1) + pixel), tl.load(begins + group * (pixels + 1) + pixel + 1)
    corners = group * 4 * plan.taps * tl.cast(positions, tl.int64)
    channel = (channel_group * plan.group_channels + member) * columns.channel
    total = tl.zeros([plan.tile_group_channels], tl.float64 if plan.dtype == "float64" else tl.float32)
    for entry in range(first, last):
        corner = tl.load(order + corners + entry)
        tap, position = corner % (plan.taps * positions) // positions, corner % positions
        place = tap * columns.tap + position // sizes.output_width * columns.row + position % sizes.output_width * columns.column
        value = tl.load(start_of(columns, batch) + channel + place, mask=mask, other=0.0)
        total += value * tl.load(weights + corners + corner)
    where = (
        (channel_group * plan.group_channels + member) * y.channel + pixel // sizes.width * y.row + pixel % sizes.width * y.column
    )
    tl.store(start_of(y, batch) + where, total, mask=mask)


def gradient_from_columns(columns: Tensor, call: Call, plan: Plan, result: Tensor) -> None:
    """Write the image's gradient from that of its samples, ``[B, C, K, Ho, Wo]``."""
    assert call.offsets is not None
    pixel, weight = _corners(call.offsets, call.geometry)
    by_pixel, order = pixel.sort(dim=2, stable=True)
    pixels = call.geometry.image[0] * call.geometry.image[1]
    edges = torch.arange(pixels + 1, device=pixel.device).expand(*pixel.shape[:2], -1)
    begins = torch.searchsorted(by_pixel, edges.contiguous())
    grid = (pixels * call.x.shape[0], plan.channel_groups * plan.group_blocks)
    start(
        collect,
        grid,
        call.x.device,
        plan,
        pixels,
        sizes=sizes_of(call.geometry),
        columns=image_of(columns),
        weights=weight,
        order=order,
        begins=begins,
        y=image_of(result),
    )


def _corners(offsets: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Return the pixels of the four corners of every sample, row-major, and their weights, ``[B, F, 4*K*P]``.

    A corner outside the image gets the number behind the last pixel.
    """
    height, width = geometry.image
    y, x = (_positions(offsets, geometry, axis) for axis in (0, 1))
    inside = (y >= -1) & (y < height) & (x >= -1) & (x < width)
    y, x = y.where(inside, 0), x.where(inside, 0)
    pixels, weights = [], []
    for below in (0, 1):
        for right in (0, 1):
            row, column = y.floor() + below, x.floor() + right
            there = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            pixels.append((row.long() * width + column.long()).where(there, height * width))
            weights.append((1 - (y - row).abs()) * (1 - (x - column).abs()))
    return torch.stack(pixels, 2).flatten(2), torch.stack(weights, 2).flatten(2)


def _positions(offsets: Tensor, geometry: Geometry, axis: int) -> Tensor:
    """Return the rows or columns of every tap, ``[B, F, K, P]``."""
    moves = offsets[:, :, :, axis].to(precision(offsets))
    steps = torch.arange(
        geometry.kernel_size[axis], dtype=moves.dtype, device=moves.device
    )  # made there: a copy would end a graph's capture
    taps = (steps[:, None] if axis == 0 else steps).expand(geometry.kernel_size).flatten() * geometry.dilation[
        axis
    ] - geometry.padding[axis]
    windows = torch.arange(geometry.output[axis], dtype=moves.dtype, device=moves.device) * geometry.stride[axis]
    grid = taps[:, None, None] + (windows[:, None] if axis == 0 else windows)
    return (moves + grid).expand(*moves.shape[:3], *geometry.output).flatten(3)
