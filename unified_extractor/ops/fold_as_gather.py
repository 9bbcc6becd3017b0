"""A fold of generated kernels on the regular grid is a gather with a composed (2k-1) x (2k-1) kernel.

``D'[p, d]`` is the sum over windows q covering pixel p, and taps i, j with ``t_j - t_i = d``, of ``D[q, i, j]``. For a fixed output
tap i the displacements d form a block of kh x kw taps of the composed kernel, so composing is K additions of blocks.
"""

from typing import Any

import torch
from torch import Tensor

from unified_extractor.ops.autocast import returned
from unified_extractor.ops.geometry import Window, canvas, cropped, padded


def composing_is_cheaper(window: Window, *, channels: int, groups: int) -> bool:
    """Whether composing and gathering cost less than the fold, whose multiply-adds count double: each reads and writes its sum."""
    positions, pixels = window.output[0] * window.output[1], window.image[0] * window.image[1]
    compose = window.size**2 * positions * groups
    return compose + composed_window(window).size * pixels * channels < 2 * window.size**2 * positions * channels


def composed_window(window: Window) -> Window:
    """The gather that equals a fold: a window at every pixel, a tap for every displacement between two taps."""
    (kh, kw), (dy, dx) = window.kernel_size, window.dilation
    reach = (dy * (kh - 1), dx * (kw - 1))
    return Window((2 * kh - 1, 2 * kw - 1), (1, 1), reach, reach, window.dilation, window.image, window.image)


def compose_fold(dynamic_kernel: Tensor, window: Window) -> Tensor:
    """The dynamic kernel of :func:`composed_window`, ``[B, G, (2kh-1)*(2kw-1), H, W]``.

    Args:
        dynamic_kernel: ``[B, G, K, K, Ho, Wo]``, (output tap, source tap).
        window: the geometry of the fold.
    """
    return _Compose.apply(dynamic_kernel.expand(*dynamic_kernel.shape[:4], *window.output), window)


class _Compose(torch.autograd.Function):
    @staticmethod
    def forward(dynamic: Tensor, window: Window) -> Tensor:
        batch, groups = dynamic.shape[:2]
        taps = composed_window(window).size
        composed = canvas(dynamic, groups * taps, window)
        for i in range(window.size):
            _block(composed, groups, i, window).add_(dynamic[:, :, i].unflatten(2, window.kernel_size))
        return returned(cropped(composed, window).reshape(batch, groups, taps, *window.image), dynamic.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.groups, ctx.window = inputs[0].shape[1], inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        composed = padded(gradient.flatten(1, 2), ctx.window)
        blocks = [_block(composed, ctx.groups, i, ctx.window).flatten(2, 3) for i in range(ctx.window.size)]
        return torch.stack(blocks, 2), None


def _block(composed: Tensor, groups: int, i: int, window: Window) -> Tensor:
    """The view ``[B, G, kh, kw, Ho, Wo]`` of the composed kernel that output tap i of every window adds to."""
    (kh, kw), (row, column) = window.kernel_size, window.taps[i]
    rows, columns = window.slices(window.taps[i])
    taps = composed.unflatten(1, (groups, 2 * kh - 1, 2 * kw - 1))
    return taps[:, :, kh - 1 - row : 2 * kh - 1 - row, kw - 1 - column : 2 * kw - 1 - column, rows, columns]
