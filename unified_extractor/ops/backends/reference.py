"""The definition, written down as plainly as possible: slow, exact, the oracle of every backend. Not for use in a network.

b batch, c input channel, o output channel, g kernel group, f offset group, k tap, i output tap of a fold, h w output position.
"""

import torch
from einops import einsum, rearrange, repeat
from torch import Tensor

from unified_extractor.ops.geometry import Geometry


def generalized_unfold(x: Tensor, offsets: Tensor | None, geometry: Geometry) -> Tensor:
    """``[B, C, K, Ho, Wo]``: the bilinear value of x at every tap of every window."""
    batch, channels = x.shape[:2]
    dtype = torch.promote_types(x.dtype if offsets is None else offsets.dtype, torch.float32)
    axes = []
    for axis, letters in ((0, "k h 1"), (1, "k 1 w")):
        taps = torch.tensor([tap[axis] for tap in geometry.tap_indices], dtype=dtype, device=x.device)
        starts = (
            torch.arange(geometry.output[axis], dtype=dtype, device=x.device) * geometry.stride[axis] - geometry.padding[axis]
        )
        grid = rearrange(taps, "k -> k 1") * geometry.dilation[axis] + rearrange(starts, "p -> 1 p")
        axes.append(rearrange(grid, f"k p -> 1 1 {letters.replace('h', 'p').replace('w', 'p')}"))
    moves = torch.zeros((), dtype=dtype, device=x.device).expand(1, 1, 1, 2, 1, 1) if offsets is None else offsets.to(dtype)
    rows, columns = torch.broadcast_tensors(axes[0] + moves[:, :, :, 0], axes[1] + moves[:, :, :, 1])
    groups = rows.shape[1]
    rows, columns = (
        repeat(a.expand(batch, -1, -1, -1, -1), "b f k h w -> b (f n) k h w", n=channels // groups) for a in (rows, columns)
    )
    return _bilinear(x, rows, columns).to(x.dtype)


def _bilinear(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The value at real positions ``[b, c, k, h, w]``: four corners, those outside the image count zero."""
    height, width = x.shape[2:]
    exists = (rows >= -1) & (rows < height) & (columns >= -1) & (columns < width)
    rows, columns = rows.where(exists, 0), columns.where(exists, 0)
    top, left = rows.floor(), columns.floor()
    b, c = (torch.arange(n, device=x.device) for n in x.shape[:2])
    value = torch.zeros_like(rows)
    for row, row_weight in ((top, 1 - (rows - top)), (top + 1, rows - top)):
        for column, column_weight in ((left, 1 - (columns - left)), (left + 1, columns - left)):
            inside = exists & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            pixel = x[
                rearrange(b, "b -> b 1 1 1 1"),
                rearrange(c, "c -> c 1 1 1"),
                row.where(inside, 0).long(),
                column.where(inside, 0).long(),
            ]
            value = value + torch.where(inside, row_weight * column_weight * pixel, 0)
    return value


def extract(
    x: Tensor,
    static_kernel: Tensor | None,
    dynamic_kernel: Tensor | None,
    offsets: Tensor | None,
    bias: Tensor | None,
    geometry: Geometry,
    combine: str,
    aggregation: str,
) -> Tensor:
    """The formulas of ``functional.py``, with both kernels written out for every pair of channels and every position."""
    columns = generalized_unfold(x, offsets, geometry)
    static = _every_channel_pair(static_kernel, x, geometry)
    dynamic = _every_channel(dynamic_kernel, x, geometry, aggregation)
    if aggregation == "fold":
        diagonal = einsum(static, "c c k -> c k")
        y = _fold(einsum(dynamic, diagonal, columns, "b c i k h w, c k, b c k h w -> b c i h w"), geometry)
    elif combine == "add":
        y = einsum(static, columns, "o c k, b c k h w -> b o h w") + einsum(dynamic, columns, "b c k h w, b c k h w -> b c h w")
    else:
        factor = 1 + dynamic if combine == "residual" else dynamic
        y = einsum(static, factor, columns, "o c k, b c k h w, b c k h w -> b o h w")
    return y if bias is None else y + rearrange(bias, "o -> o 1 1")


def similarity(query: Tensor, key: Tensor, offsets: Tensor | None, heads: int, geometry: Geometry) -> Tensor:
    """``[B, heads, K, Ho, Wo]``: the products of each query with the keys its window reads, summed over a head's channels."""
    keys = rearrange(generalized_unfold(key, offsets, geometry), "b (g n) k h w -> b g n k h w", g=heads)
    return einsum(rearrange(query, "b (g n) h w -> b g n h w", g=heads), keys, "b g n h w, b g n k h w -> b g k h w")


def _every_channel_pair(static_kernel: Tensor | None, x: Tensor, geometry: Geometry) -> Tensor:
    """S as ``[O, C, K]``, zero between channels of different groups; the identity where it is absent."""
    channels = x.shape[1]
    if static_kernel is None:
        return repeat(torch.eye(channels, dtype=x.dtype, device=x.device), "o c -> o c k", k=geometry.taps)
    groups = channels // static_kernel.shape[1]
    same_group = torch.eye(groups, dtype=x.dtype, device=x.device)
    kernel = rearrange(static_kernel, "(g o) c y x -> g o c (y x)", g=groups)
    return rearrange(einsum(kernel, same_group, "g o c k, g j -> g o j c k"), "g o j c k -> (g o) (j c) k")


def _every_channel(dynamic_kernel: Tensor | None, x: Tensor, geometry: Geometry, aggregation: str) -> Tensor:
    """D as ``[B, C, K, Ho, Wo]``, or ``[B, C, K, K, Ho, Wo]`` for fold; ones where it is absent."""
    taps = (geometry.taps,) if aggregation == "gather" else (geometry.taps, geometry.taps)
    if dynamic_kernel is None:
        return x.new_ones((*x.shape[:2], *taps, *geometry.output))
    shared = repeat(dynamic_kernel, "b g ... -> b (g n) ...", n=x.shape[1] // dynamic_kernel.shape[1])
    return shared.expand(*x.shape[:2], *taps, *geometry.output)


def _fold(z: Tensor, geometry: Geometry) -> Tensor:
    """``[B, C, K, Ho, Wo]`` to ``[B, C, H, W]``: each value is added at the pixel its tap covers; outside the image it is lost."""
    y = z.new_zeros(*z.shape[:2], *geometry.image)
    for i, tap in enumerate(geometry.tap_indices):
        rows, columns = (
            torch.arange(geometry.output[a], device=z.device) * geometry.stride[a]
            - geometry.padding[a]
            + geometry.dilation[a] * tap[a]
            for a in (0, 1)
        )
        to_row = (rows[:, None] == torch.arange(geometry.image[0], device=z.device)).to(z.dtype)
        to_column = (columns[:, None] == torch.arange(geometry.image[1], device=z.device)).to(z.dtype)
        y = y + einsum(z[:, :, i], to_row, to_column, "b c h w, h y, w x -> b c y x")
    return y
