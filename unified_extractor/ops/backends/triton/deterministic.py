"""The gradient of an image that offsets read, the same bit for bit every time: sorted by pixel instead of added in any order."""

import torch
from torch import Tensor

from unified_extractor.ops.backends.triton.backward import collect
from unified_extractor.ops.backends.triton.planning import image_of, sizes_of
from unified_extractor.ops.backends.triton.records import Plan
from unified_extractor.ops.backends.triton.tuning import start
from unified_extractor.ops.geometry import Window, precision
from unified_extractor.ops.operators import Call


def gradient_from_columns(columns: Tensor, call: Call, plan: Plan, result: Tensor) -> None:
    """Write the image's gradient from that of what its taps read, ``[B, C, K, Ho, Wo]``."""
    assert call.offsets is not None
    pixel, weight = _corners(call.offsets, call.window)
    by_pixel, order = pixel.sort(dim=2, stable=True)
    pixels = call.window.image[0] * call.window.image[1]
    edges = torch.arange(pixels + 1, device=pixel.device).expand(*pixel.shape[:2], -1)
    begins = torch.searchsorted(by_pixel, edges.contiguous())
    grid = (plan.units * plan.chunks * pixels * call.x.shape[0],)
    start(
        collect,
        grid,
        call.x.device,
        plan,
        pixels,
        sizes=sizes_of(call.window),
        columns=image_of(columns),
        weights=weight,
        order=order,
        begins=begins,
        y=image_of(result),
    )


def _corners(offsets: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    """The pixels of the four corners of every read, row-major, and their weights, ``[B, F, 4*K*P]``. None: behind the last pixel."""
    height, width = window.image
    y, x = (_positions(offsets, window, axis) for axis in (0, 1))
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


def _positions(offsets: Tensor, window: Window, axis: int) -> Tensor:
    """Rows or columns of every tap, ``[B, F, K, P]``."""
    moves = offsets[:, :, :, axis].to(precision(offsets))
    taps = moves.new_tensor([tap[axis] * window.dilation[axis] - window.padding[axis] for tap in window.taps])
    windows = torch.arange(window.output[axis], dtype=moves.dtype, device=moves.device) * window.stride[axis]
    grid = taps[:, None, None] + (windows[:, None] if axis == 0 else windows)
    return (moves + grid).expand(*moves.shape[:3], *window.output).flatten(3)
