"""A fold of generated kernels on the regular grid is a gather with a composed (2k-1) x (2k-1) kernel.

``D'[p, d]`` is the sum over windows q covering pixel p, and taps i, j with ``t_j - t_i = d``, of ``D[q, i, j]``. For a fixed output
tap i the displacements d form a block of kh x kw taps of the composed kernel, so composing is K additions of blocks.
"""

from typing import Any

import torch
from torch import Tensor

from unified_extractor.ops.batching import batched_backward
from unified_extractor.ops.cost import multiply_adds
from unified_extractor.ops.geometry import Geometry, canvas, cropped, padded
from unified_extractor.ops.tracing import returned


def composing_is_cheaper(geometry: Geometry, *, channels: int, groups: int) -> bool:
    """Return whether composing and gathering cost less than the fold, whose multiply-adds count double: each reads and writes its sum."""
    compose = multiply_adds(geometry, groups, results=geometry.taps)  # an addition for each
    gather = multiply_adds(composed_geometry(geometry), channels, results=1)
    return compose + gather < 2 * multiply_adds(geometry, channels, results=geometry.taps)


def composed_geometry(geometry: Geometry) -> Geometry:
    """Return the geometry of the gather that equals a fold: a window at every pixel, a tap for every displacement between two taps."""
    (kh, kw), (dy, dx) = geometry.kernel_size, geometry.dilation
    reach = (dy * (kh - 1), dx * (kw - 1))
    return Geometry((2 * kh - 1, 2 * kw - 1), (1, 1), reach, reach, geometry.dilation, geometry.image, geometry.image)


def compose_fold(dynamic_kernel: Tensor, geometry: Geometry) -> Tensor:
    """Return the dynamic kernel of :func:`composed_geometry`, ``[B, G, (2kh-1)*(2kw-1), H, W]``.

    Args:
        dynamic_kernel: ``[B, G, K, K, Ho, Wo]``, (output tap, source tap).
        geometry: the sizes of the fold.
    """
    return _Compose.apply(dynamic_kernel.expand(*dynamic_kernel.shape[:4], *geometry.output), geometry)


class _Compose(torch.autograd.Function):
    @staticmethod
    def forward(dynamic: Tensor, geometry: Geometry) -> Tensor:
        batch, groups = dynamic.shape[:2]
        taps = composed_geometry(geometry).taps
        composed = canvas(dynamic, groups * taps, geometry)
        for i in range(geometry.taps):
            _block(composed, groups, i, geometry).add_(dynamic[:, :, i].unflatten(2, geometry.kernel_size))
        return returned(cropped(composed, geometry).reshape(batch, groups, taps, *geometry.image), dynamic.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.groups, ctx.geometry = inputs[0].shape[1], inputs[1]

    @staticmethod
    @batched_backward
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        composed = padded(gradient.flatten(1, 2), ctx.geometry)
        blocks = [_block(composed, ctx.groups, i, ctx.geometry).flatten(2, 3) for i in range(ctx.geometry.taps)]
        return torch.stack(blocks, 2), None


def _block(composed: Tensor, groups: int, i: int, geometry: Geometry) -> Tensor:
    """Return the view ``[B, G, kh, kw, Ho, Wo]`` of the composed kernel that output tap i of every window adds to."""
    (kh, kw), (row, column) = geometry.kernel_size, geometry.tap_indices[i]
    rows, columns = geometry.slices(geometry.tap_indices[i])
    taps = composed.unflatten(1, (groups, 2 * kh - 1, 2 * kw - 1))
    return taps[:, :, kh - 1 - row : 2 * kh - 1 - row, kw - 1 - column : 2 * kw - 1 - column, rows, columns]
