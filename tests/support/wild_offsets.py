"""Offsets that lead to the borders of an image, far from it or nowhere."""

import torch

from tests.support.oracles import output_size

WILD = [torch.nan, torch.inf, -torch.inf, 1e30, -1e30, 2.0**31, -(2.0**31) - 1, 2.0**63, -(2.0**63), 6e4, -6e4]
CLOSE = 2.0**-10


def wild_offsets(call):
    """Return offsets, some of which lead to the borders of the image or far from it, and which taps sample anything."""
    size, (rows, columns) = call["x"].shape[2:], as_taps(call)
    targets = torch.tensor([[*WILD, -1, -1 - CLOSE, -1 + CLOSE, n - 1, n, n - CLOSE, n + CLOSE] for n in size]).double()
    shape = call["offsets"].shape
    pick = torch.randint(2 * targets.shape[1], shape, generator=torch.Generator().manual_seed(0))
    axis = torch.arange(2)[:, None, None].expand(shape)
    grid = torch.stack([rows.expand(*shape[2:3], *shape[4:]), columns.expand(*shape[2:3], *shape[4:])], 1)
    wild = targets[axis, pick % targets.shape[1]] - grid
    offsets = torch.where(pick < targets.shape[1], wild, call["offsets"].double()).to(call["offsets"].dtype)
    position = grid + offsets.double()
    inside = (position >= -1) & (position < torch.tensor(size)[:, None, None])
    return offsets, inside.all(3, keepdim=True).expand(shape)


def as_taps(call):
    """Return the rows and columns of all taps without offsets, ``[K, Ho, Wo]`` each, at stride 1."""
    kernel_size, padding = (v if isinstance(v, tuple) else (v, v) for v in (call["kernel_size"], call["padding"]))
    out = output_size(call["x"].shape[2:], kernel_size, 1, padding, 1)
    taps = torch.cartesian_prod(*map(torch.arange, kernel_size))
    rows, columns = (torch.arange(n) - p for n, p in zip(out, padding, strict=True))
    return taps[:, 0, None, None] + rows[:, None], taps[:, 1, None, None] + columns
