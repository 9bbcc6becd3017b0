"""Reading one tap of all windows, and adding a gradient back where it was read.

B batch, C channels, F offset groups, N = C/F, Ho, Wo output positions, P = Ho*Wo.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unified_extractor.ops.geometry import Window


class Corner(NamedTuple):
    """One of the four pixels around the positions of a tap."""

    pixel: Tensor
    """Row-major index ``[B, F, 1, P]``; 0 for a corner outside the image, whose value and weight are zero."""
    value: Tensor
    """``[B, F, N, P]``."""
    weight: Tensor
    """Bilinear weight ``[B, F, 1, P]``."""
    slope: tuple[Tensor, Tensor]
    """Derivatives of the weight by the position's y and x, each ``[B, F, 1, P]``."""


class Tap(NamedTuple):
    """What tap k of every window reads."""

    k: int
    value: Tensor
    """``[B, C, Ho, Wo]``."""
    corners: list[Corner]
    """Empty on the regular grid."""


def padded(x: Tensor, window: Window) -> Tensor:
    """The image with the zeros that windows reach, so that ``window.slices`` are its pixels."""
    (top, left), (bottom, right) = window.padding, window.padding_after
    return F.pad(x, (left, right, top, bottom)) if top or left or bottom or right else x


def cropped(canvas: Tensor, window: Window) -> Tensor:
    """The image inside its padding: the adjoint of :func:`padded`."""
    (top, left), (height, width) = window.padding, window.image
    return canvas[:, :, top : top + height, left : left + width]


def canvas(x: Tensor, channels: int, window: Window) -> Tensor:
    """Zeros of the padded image's size, for sums of values that lie at taps."""
    height, width = (window.padding[a] + window.image[a] + window.padding_after[a] for a in (0, 1))
    return x.new_zeros(x.shape[0], channels, height, width, dtype=precision(x))


def precision(x: Tensor) -> torch.dtype:
    """The dtype in which sums run: at least float32."""
    return torch.promote_types(x.dtype, torch.float32)


class RegularTaps:
    """Taps on the regular grid: views of the padded image."""

    def __init__(self, x: Tensor, window: Window) -> None:
        self.window = window
        self.image = padded(x, window)
        self.x_gradient: Tensor | None = None

    def read(self, k: int) -> Tap:
        rows, columns = self.window.slices(self.window.taps[k])
        return Tap(k, self.image[:, :, rows, columns], [])

    def accumulate(self, tap: Tap, gradient: Tensor) -> None:
        """Add the gradient of a tap's value, ``[B, C, Ho, Wo]``, to that of the image."""
        if self.x_gradient is None:
            self.x_gradient = canvas(self.image, self.image.shape[1], self.window)
        rows, columns = self.window.slices(self.window.taps[tap.k])
        self.x_gradient[:, :, rows, columns] += gradient

    def gradients(self) -> tuple[Tensor, None]:
        """Gradients of image and offsets, once every tap was accumulated."""
        assert self.x_gradient is not None
        return cropped(self.x_gradient, self.window).to(self.image.dtype), None


class MovedTaps:
    """Taps moved by offsets: bilinear reads. A position that is not finite or outside has no corner in the image."""

    def __init__(self, x: Tensor, offsets: Tensor, window: Window) -> None:
        self.window, self.shape, self.offsets = window, x.shape, offsets
        self.image = self._by_offset_group(x)
        self.x_gradient: Tensor | None = None
        self.moves: list[Tensor] = []

    def read(self, k: int) -> Tap:
        corners = self._corners(k)
        value = sum(corner.weight * corner.value for corner in corners)
        return Tap(k, value.reshape(*self.shape[:2], *self.window.output), corners)  # type: ignore[union-attr]

    def _by_offset_group(self, value: Tensor) -> Tensor:
        """``[B, C, h, w]`` as ``[B, F, N, h*w]``."""
        return value.flatten(2).unflatten(1, (self.offsets.shape[1], -1))

    def _positions(self, k: int) -> list[Tensor]:
        """Rows and columns of tap k of every window, each ``[B, F, 1, Ho, Wo]``."""
        moves = self.offsets[:, :, k].to(precision(self.offsets))
        positions = []
        for axis in (0, 1):
            windows = torch.arange(self.window.output[axis], dtype=moves.dtype, device=moves.device) * self.window.stride[axis]
            start = self.window.dilation[axis] * self.window.taps[k][axis] - self.window.padding[axis]
            grid = (windows + start).view(-1, 1) if axis == 0 else (windows + start).view(1, -1)
            positions.append((grid + moves[:, :, axis]).expand(-1, -1, *self.window.output).unsqueeze(2))
        return positions

    def _corners(self, k: int) -> list[Corner]:
        """The four corners, floor-based, so that derivatives are those of the cell to the right and below."""
        height, width = self.window.image
        row, column = self._positions(k)
        inside = (row >= -1) & (row < height) & (column >= -1) & (column < width)
        row, column = row.where(inside, 0), column.where(inside, 0)
        top, left = row.floor(), column.floor()
        rows = ((top, 1 - (row - top), -1), (top + 1, row - top, 1))
        columns = ((left, 1 - (column - left), -1), (left + 1, column - left, 1))
        return [self._corner(inside, y, x) for y in rows for x in columns]

    def _corner(self, inside: Tensor, row: tuple[Tensor, Tensor, int], column: tuple[Tensor, Tensor, int]) -> Corner:
        (y, y_weight, y_sign), (x, x_weight, x_sign) = row, column
        height, width = self.window.image
        inside = (inside & (y >= 0) & (y < height) & (x >= 0) & (x < width)).flatten(3)
        index = (y * width + x).flatten(3).where(inside, 0).long()
        value = self.image.gather(3, index.expand(-1, -1, self.image.shape[2], -1)).where(inside, 0)
        weight = (y_weight * x_weight).flatten(3).where(inside, 0)
        return Corner(index, value, weight, ((y_sign * x_weight).flatten(3), (x_sign * y_weight).flatten(3)))

    def accumulate(self, tap: Tap, gradient: Tensor) -> None:
        """Add the gradient of a tap's value, ``[B, C, Ho, Wo]``, to those of the image and the offsets."""
        gradient = self._by_offset_group(gradient)
        if self.x_gradient is None:
            self.x_gradient = torch.zeros_like(self.image, dtype=gradient.dtype)
        moves = []
        for corner in tap.corners:
            index = corner.pixel.expand(-1, -1, self.image.shape[2], -1)
            self.x_gradient = self.x_gradient.scatter_add(3, index, corner.weight * gradient)
            product = (corner.value * gradient).sum(2, keepdim=True)
            moves.append(torch.cat([slope * product for slope in corner.slope], 2))
        move = torch.stack(moves).sum(0).unflatten(3, self.window.output)
        self.moves.append(move.sum_to_size(*self.offsets[:, :, tap.k].shape))

    def gradients(self) -> tuple[Tensor, Tensor]:
        """Gradients of image and offsets, once every tap was accumulated."""
        assert self.x_gradient is not None
        return self.x_gradient.view(self.shape).to(self.image.dtype), torch.stack(self.moves, 2).to(self.offsets.dtype)


def taps(x: Tensor, offsets: Tensor | None, window: Window) -> RegularTaps | MovedTaps:
    """The taps of all windows."""
    return RegularTaps(x, window) if offsets is None else MovedTaps(x, offsets, window)
