"""The definition, written down as plainly as possible: slow, exact, the oracle of every backend. Not for use in a network.

b batch, c input channel, o output channel, g kernel group, f offset group, k tap, m term, i output tap of a fold, h w output position.
"""

import torch
from einops import einsum, rearrange, repeat
from torch import Tensor

from unified_extractor.ops.call import Call
from unified_extractor.ops.dynamic_kernels import AttentionKernel
from unified_extractor.ops.geometry import Geometry

_LETTERS = {"gather": "b c k -> b c k 1 1", "fold": "b c k -> b c 1 k 1 1"}
"""The axes of a channel kernel beside those of a dynamic kernel that is written out."""


class Reference:
    """The backend that is the definition."""

    name = "reference"

    def unusable_because(self) -> None:
        """Return None: torch is there."""

    def refuses_because(self, call: Call) -> None:
        """Return None: it runs every call."""

    def is_fast(self, call: Call, *, recomputing: bool) -> bool:
        """Return False: it must be asked for by name."""
        return False

    def recomputes(self, call: Call, *, demanded: bool) -> bool:
        """Return False: the dynamic kernel is stored."""
        return False

    def run(self, call: Call) -> Tensor:
        """Return the output of a call."""
        if call.aggregation == "unfold":
            return _unfold(call.x, call.offsets, call.geometry)
        if call.aggregation == "similarity":
            kernel = call.dynamic_kernel
            assert isinstance(kernel, AttentionKernel)
            return _similarity(kernel.query, call.x, call.offsets, kernel.heads, call.geometry)
        return _aggregate(call)


def _unfold(x: Tensor, offsets: Tensor | None, geometry: Geometry) -> Tensor:
    """Return the bilinear value of x at every tap of every window, ``[B, C, K, Ho, Wo]``."""
    batch, channels = x.shape[:2]
    dtype = torch.promote_types(x.dtype if offsets is None else offsets.dtype, torch.float32)
    axes = []
    for axis, letters in ((0, "k h 1"), (1, "k 1 w")):
        taps = torch.tensor([tap[axis] for tap in geometry.tap_indices], dtype=dtype, device=x.device)
        windows = torch.arange(geometry.output[axis], dtype=dtype, device=x.device)
        starts = (windows / geometry.upsample[axis]).floor() * geometry.stride[axis] - geometry.padding[axis]
        grid = rearrange(taps, "k -> k 1") * geometry.dilation[axis] + rearrange(starts, "p -> 1 p")
        axes.append(rearrange(grid, f"k p -> 1 1 {letters.replace('h', 'p').replace('w', 'p')}"))
    shifts = torch.zeros((), dtype=dtype, device=x.device).expand(1, 1, 1, 2, 1, 1) if offsets is None else offsets.to(dtype)
    rows, columns = torch.broadcast_tensors(axes[0] + shifts[:, :, :, 0], axes[1] + shifts[:, :, :, 1])
    groups = rows.shape[1]
    rows, columns = (
        repeat(a.expand(batch, -1, -1, -1, -1), "b f k h w -> b (f n) k h w", n=channels // groups) for a in (rows, columns)
    )
    return _bilinear(x, rows, columns).to(x.dtype)


def _bilinear(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the value at real positions ``[b, c, k, h, w]``: four corners, those outside the image count zero."""
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


def _aggregate(call: Call) -> Tensor:
    """Apply the formulas of ``functional.py``, with both kernels written out for every pair of channels and every position."""
    x, geometry = call.x, call.geometry
    columns = _unfold(x, call.offsets, geometry)
    if call.terms:
        return _sum_of_terms(call, columns)
    static = _every_channel_pair(call.static_kernel, x, geometry)
    dynamic = _every_channel(call.stored_kernel, x, geometry, call.aggregation)
    if call.channel_kernel is not None:
        dynamic = dynamic * rearrange(call.channel_kernel, _LETTERS[call.aggregation])
    if call.aggregation == "fold":
        diagonal = einsum(static, "c c k -> c k")
        y = _fold(einsum(dynamic, diagonal, columns, "b c i k h w, c k, b c k h w -> b c i h w"), geometry)
    elif call.combine == "add":
        y = einsum(static, columns, "o c k, b c k h w -> b o h w") + einsum(dynamic, columns, "b c k h w, b c k h w -> b c h w")
    else:
        factor = 1 + dynamic if call.combine == "residual" else dynamic
        y = einsum(static, factor, columns, "o c k, b c k h w, b c k h w -> b o h w")
    return y if call.bias is None else y + rearrange(call.bias, "o -> o 1 1")


def _sum_of_terms(call: Call, columns: Tensor) -> Tensor:
    """Apply the formula of several terms, with every static and dynamic kernel written out, to the columns ``[B, C, K, Ho, Wo]``."""
    assert call.static_kernel is not None
    assert call.stored_kernel is not None
    static = torch.stack([_every_channel_pair(kernel, call.x, call.geometry) for kernel in call.static_kernel])
    dynamic = torch.stack([_every_channel(kernel, call.x, call.geometry, "gather") for kernel in call.stored_kernel.unbind(1)])
    if call.channel_kernel is not None:
        dynamic = dynamic * rearrange(call.channel_kernel, _LETTERS["gather"])
    y = einsum(static, dynamic, columns, "m o c k, m b c k h w, b c k h w -> b o h w")
    return y if call.bias is None else y + rearrange(call.bias, "o -> o 1 1")


def _similarity(query: Tensor, key: Tensor, offsets: Tensor | None, heads: int, geometry: Geometry) -> Tensor:
    """Return the products of each query with the keys its window samples, summed over a head's channels: ``[B, heads, K, Ho, Wo]``."""
    keys = rearrange(_unfold(key, offsets, geometry), "b (g n) k h w -> b g n k h w", g=heads)
    return einsum(rearrange(query, "b (g n) h w -> b g n h w", g=heads), keys, "b g n h w, b g n k h w -> b g k h w")


def _every_channel_pair(static_kernel: Tensor | None, x: Tensor, geometry: Geometry) -> Tensor:
    """Return S as ``[O, C, K]``, zero between channels of different groups; the identity where it is absent."""
    channels = x.shape[1]
    if static_kernel is None:
        return repeat(torch.eye(channels, dtype=x.dtype, device=x.device), "o c -> o c k", k=geometry.taps)
    groups = channels // static_kernel.shape[1]
    same_group = torch.eye(groups, dtype=x.dtype, device=x.device)
    kernel = rearrange(static_kernel, "(g o) c y x -> g o c (y x)", g=groups)
    return rearrange(einsum(kernel, same_group, "g o c k, g j -> g o j c k"), "g o j c k -> (g o) (j c) k")


def _every_channel(dynamic_kernel: Tensor | None, x: Tensor, geometry: Geometry, aggregation: str) -> Tensor:
    """Return D as ``[B, C, K, Ho, Wo]``, or ``[B, C, K, K, Ho, Wo]`` for fold; ones where it is absent."""
    taps = (geometry.taps,) if aggregation == "gather" else (geometry.taps, geometry.taps)
    if dynamic_kernel is None:
        return x.new_ones((*x.shape[:2], *taps, *geometry.output))
    shared = repeat(dynamic_kernel, "b g ... -> b (g n) ...", n=x.shape[1] // dynamic_kernel.shape[1])
    return shared.expand(*x.shape[:2], *taps, *geometry.output)


def _fold(z: Tensor, geometry: Geometry) -> Tensor:
    """Add each value of ``[B, C, K, Ho, Wo]`` at the pixel its tap covers, ``[B, C, H, W]``; outside the image it is lost."""
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
