"""Output grids that are finer than the image, by calls of simpler grids.

Windows that sit at one place sample the same taps. Along an axis on which they have no dynamic kernel or offsets of their own, all outputs
of a place are one. For a backend that has no fine grids, the outputs at one sub-position of all places are those of an ordinary call, whose
dynamic kernel and offsets are every s-th of the fine ones. Nothing is repeated s*s times but the output.

sy, sx factors, Ho, Wo fine output positions.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from unified_extractor.ops.call import Call
from unified_extractor.ops.dynamic_kernels import AttentionKernel, LinearKernel

Run = Callable[[Call], Tensor]
"""A backend's operator for calls whose grid is that of stride 1."""


def run_distinct(call: Call, run: Run) -> Tensor:
    """Return the output of a call with ``upsample`` by one whose windows at a place all have kernels or offsets of their own."""
    factors, fields = call.geometry.upsample, [t for t in (_field_of_kernel(call), call.offsets) if t is not None]
    distinct = [factor if any(t.shape[axis] > 1 for t in fields) else 1 for axis, factor in zip((-2, -1), factors, strict=True)]
    y = run(call._replace(geometry=call.geometry.with_upsample((distinct[0], distinct[1]))))
    for axis, factor, done in zip((-2, -1), factors, distinct, strict=True):
        y = _interleaved([y] * (factor // done), axis)
    return y


def run_sub_positions(call: Call, run: Run) -> Tensor:
    """Return the output of a call with ``upsample``, by one call for each sub-position at which kernels or offsets differ."""
    return run_distinct(call, lambda distinct: _at_each_sub_position(distinct, run))


def _at_each_sub_position(call: Call, run: Run) -> Tensor:
    factors, coarse = call.geometry.upsample, call.geometry.with_upsample((1, 1))
    kernels, offsets = _at_sub_positions(_field_of_kernel(call), factors), _at_sub_positions(call.offsets, factors)
    rows = []
    for y in range(factors[0]):
        columns = [
            run(_with_kernel(call, kernels[y][x])._replace(offsets=offsets[y][x], geometry=coarse)) for x in range(factors[1])
        ]
        rows.append(_interleaved(columns, -1))
    return _interleaved(rows, -2)


def fine_values(values: Tensor, upsample: tuple[int, int]) -> Tensor:
    """Return values ``[B, N*sy*sx, h, w]`` that every place has for its sub-positions as ``[B, N, h*sy, w*sx]``.

    The order of the channels is that of ``torch.nn.PixelShuffle``, whose factor is the same along both axes.
    """
    if upsample == (1, 1):
        return values
    parts = values.unflatten(1, (-1, *upsample))  # [B, N, sy, sx, h, w]
    return parts.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)


def _field_of_kernel(call: Call) -> Tensor | None:
    """Return the part of the dynamic kernel that has a value for every window."""
    kernel = call.dynamic_kernel
    if isinstance(kernel, LinearKernel):
        return kernel.feature
    return kernel.query if isinstance(kernel, AttentionKernel) else kernel


def _with_kernel(call: Call, field: Tensor | None) -> Call:
    """Return the call with other values in the place of that part."""
    kernel = call.dynamic_kernel
    if field is None or kernel is None or isinstance(kernel, Tensor):
        return call._replace(dynamic_kernel=field)
    changed = kernel._replace(query=field) if isinstance(kernel, AttentionKernel) else kernel._replace(feature=field)
    return call._replace(dynamic_kernel=changed)


def _at_sub_positions(field: Tensor | None, factors: tuple[int, int]) -> list[list[Tensor | None]]:
    """Return a field ``[..., Ho or 1, Wo or 1]`` at every sub-position, ``[y][x]``: views; an axis of 1 stays."""
    if field is None:
        return [[None] * factors[1]] * factors[0]
    return [list(_every(row, -1, factors[1])) for row in _every(field, -2, factors[0])]


def _every(field: Tensor, axis: int, factor: int) -> tuple[Tensor, ...]:
    """Return every ``factor``-th value along an axis, for each place to begin; their gradients are stacked, not summed up."""
    if field.shape[axis] == 1:
        return (field,) * factor
    return field.unflatten(axis, (-1, factor)).unbind(axis)


def _interleaved(parts: list[Tensor], axis: int) -> Tensor:
    """Return parts alternating along an axis."""
    return parts[0] if len(parts) == 1 else torch.stack(parts, axis).flatten(axis - 1, axis)
