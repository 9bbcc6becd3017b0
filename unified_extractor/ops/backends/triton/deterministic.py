"""The gradient of an image sampled at offsets, the same bit for bit every time: sorted by pixel instead of added in any order."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from unified_extractor.ops.backends.triton.records import Plan, image_record, sizes_record
from unified_extractor.ops.backends.triton.tiles import start_of
from unified_extractor.ops.backends.triton.tuning import start, tuned
from unified_extractor.ops.call import Call
from unified_extractor.ops.offsets import bilinear_corners, tap_positions


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
    height, width = call.geometry.image
    pixels = height * width
    rows, tap_columns = tap_positions(call.geometry, call.offsets, call.offsets.device)
    corners = bilinear_corners(rows.flatten(2), tap_columns.flatten(2), (height, width))
    pixel = corners.pixel.where(corners.inside, pixels).flatten(2)  # a corner outside the image comes behind the last pixel
    by_pixel, order = pixel.sort(dim=2, stable=True)
    edges = torch.arange(pixels + 1, device=pixel.device).expand(*pixel.shape[:2], -1)
    begins = torch.searchsorted(by_pixel, edges.contiguous())
    start(
        collect,
        (pixels * call.x.shape[0], plan.channel_groups * plan.group_blocks),
        call.x.device,
        plan,
        pixels,
        sizes=sizes_record(call.geometry),
        columns=image_record(columns),
        weights=corners.weight.flatten(2),
        order=order,
        begins=begins,
        y=image_record(result),
    )
