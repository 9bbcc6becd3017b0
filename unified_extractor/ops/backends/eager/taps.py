"""Reading one tap of all windows, and adding a gradient back where it was read.

B batch, C channels, F offset groups, N = C/F, Ho, Wo output positions, P = Ho*Wo.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from unified_extractor.ops.geometry import Geometry, canvas, cropped, padded, precision


class Corners(NamedTuple):
    """The four pixels around every position of a tap."""

    pixel: Tensor
    """Row-major index ``[B, F, 1, 4*P]``; 0 for a corner outside the image, whose value and weight are zero."""
    value: Tensor
    """``[B, F, N, 4, P]``."""
    weight: Tensor
    """Bilinear weight ``[B, F, 1, 4, P]``."""
    slope: Tensor
    """Derivative of the weight by the position's y and x, ``[B, F, 2, 4, P]``."""


class Tap(NamedTuple):
    """What tap k of every window reads."""

    k: int
    value: Tensor
    """``[B, C, Ho, Wo]``."""
    corners: Corners | None = None
    """None on the regular grid."""


class Wanted(NamedTuple):
    """Which gradients are asked for."""

    x: bool
    offsets: bool


EVERY = Wanted(x=True, offsets=True)


class RegularTaps:
    """Taps on the regular grid: views of the padded image."""

    def __init__(self, x: Tensor, geometry: Geometry, wanted: Wanted) -> None:
        self.geometry, self.wanted = geometry, wanted
        self.image = padded(x, geometry)
        self.x_gradient: Tensor | None = None

    def read(self, k: int) -> Tap:
        rows, columns = self.geometry.slices(self.geometry.tap_indices[k])
        return Tap(k, self.image[:, :, rows, columns])

    def accumulate(self, tap: Tap, gradient: Tensor) -> None:
        """Add the gradient of a tap's value, ``[B, C, Ho, Wo]``, to that of the image."""
        if not self.wanted.x:
            return
        if self.x_gradient is None:
            self.x_gradient = canvas(self.image, self.image.shape[1], self.geometry)
        rows, columns = self.geometry.slices(self.geometry.tap_indices[tap.k])
        self.x_gradient[:, :, rows, columns] += gradient

    def gradients(self) -> tuple[Tensor | None, None]:
        """Gradients of image and offsets, once every tap was accumulated; None where none is wanted."""
        return None if self.x_gradient is None else cropped(self.x_gradient, self.geometry).to(self.image.dtype), None


class MovedTaps:
    """Taps moved by offsets: bilinear reads. A position that is not finite or outside has no corner in the image."""

    def __init__(self, x: Tensor, offsets: Tensor, geometry: Geometry, wanted: Wanted) -> None:
        self.geometry, self.shape, self.offsets, self.wanted = geometry, x.shape, offsets, wanted
        self.image = self._by_offset_group(x)
        self.x_gradient: Tensor | None = None
        self.moves: list[Tensor] = []

    def read(self, k: int) -> Tap:
        corners = self._corners(*self._positions(slice(k, k + 1)))
        return Tap(k, self._interpolated(corners).unflatten(2, self.geometry.output), corners)

    def columns(self) -> Tensor:
        """All taps at once, ``[B, C, K, Ho, Wo]``: taps are further positions."""
        read = self._interpolated(self._corners(*self._positions(slice(None))))
        return read.unflatten(2, (self.geometry.taps, *self.geometry.output))

    def _interpolated(self, corners: Corners) -> Tensor:
        return (corners.weight * corners.value).sum(3).flatten(1, 2)

    def _by_offset_group(self, value: Tensor) -> Tensor:
        """``[B, C, h, w]`` as ``[B, F, N, h*w]``."""
        return value.flatten(2).unflatten(1, (self.offsets.shape[1], -1))

    def _positions(self, taps: slice) -> tuple[Tensor, Tensor]:
        """Rows and columns of some taps of every window, ``[B, F, taps*P]``."""
        geometry, found = self.geometry, []
        for axis in (0, 1):
            moves = self.offsets[:, :, taps, axis].to(precision(self.offsets))
            starts = [geometry.dilation[axis] * tap[axis] - geometry.padding[axis] for tap in geometry.tap_indices[taps]]
            start = starts[0] if len(starts) == 1 else moves.new_tensor(starts)[:, None, None]
            grid = torch.arange(geometry.output[axis], dtype=moves.dtype, device=moves.device) * geometry.stride[axis]
            grid = (grid[:, None] if axis == 0 else grid) + start
            found.append((grid + moves).expand(-1, -1, -1, *geometry.output).flatten(2))
        return found[0], found[1]

    def _corners(self, row: Tensor, column: Tensor) -> Corners:
        """The four corners of positions ``[B, F, P]``, floor-based: derivatives are those of the cell to the right and below."""
        height, width = self.geometry.image
        inside = (row >= -1) & (row < height) & (column >= -1) & (column < width)
        (y, y_weight, y_slope), (x, x_weight, x_slope) = (_cell(position.where(inside, 0)) for position in (row, column))
        y, y_weight, y_slope = (part.repeat_interleave(2, 2) for part in (y, y_weight, y_slope))
        x, x_weight, x_slope = (part.repeat(1, 1, 2, 1) for part in (x, x_weight, x_slope))
        inside = inside.unsqueeze(2) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        pixel = (y.long() * width + x.long()).where(inside, 0).flatten(2).unsqueeze(2)
        value = self.image.gather(3, self._by_channel(pixel)).unflatten(3, (4, -1)).where(inside.unsqueeze(2), 0)
        weight = (y_weight * x_weight).where(inside, 0).unsqueeze(2)
        return Corners(pixel, value, weight, torch.stack([y_slope * x_weight, y_weight * x_slope], 2))

    def _by_channel(self, pixel: Tensor) -> Tensor:
        return pixel.expand(-1, -1, self.image.shape[2], -1)

    def accumulate(self, tap: Tap, gradient: Tensor) -> None:
        """Add the gradient of a tap's value, ``[B, C, Ho, Wo]``, to those of the image and the offsets."""
        assert tap.corners is not None
        pixel, value, weight, slope = tap.corners
        gradient = self._by_offset_group(gradient).unsqueeze(3)
        if self.wanted.x:
            if self.x_gradient is None:
                self.x_gradient = torch.zeros_like(self.image, dtype=gradient.dtype)
            self.x_gradient.scatter_add_(3, self._by_channel(pixel), (weight * gradient).flatten(3))
        if self.wanted.offsets:
            move = ((value * gradient).sum(2, keepdim=True) * slope).sum(3).unflatten(3, self.geometry.output)
            self.moves.append(move.sum_to_size(*self.offsets[:, :, tap.k].shape))

    def gradients(self) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of image and offsets, once every tap was accumulated; None where none is wanted."""
        of_x = None if self.x_gradient is None else self.x_gradient.view(self.shape).to(self.image.dtype)
        return of_x, torch.stack(self.moves, 2).to(self.offsets.dtype) if self.moves else None


def _cell(position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two pixels around positions ``[B, F, P]`` along one axis, their weights and the weights' derivatives, ``[B, F, 2, P]``."""
    low = position.floor()
    after = position - low
    ones = torch.ones_like(after)
    return torch.stack([low, low + 1], 2), torch.stack([1 - after, after], 2), torch.stack([-ones, ones], 2)


def taps(x: Tensor, offsets: Tensor | None, geometry: Geometry, wanted: Wanted = EVERY) -> RegularTaps | MovedTaps:
    """The taps of all windows; ``wanted``: the gradients that will be asked for."""
    return RegularTaps(x, geometry, wanted) if offsets is None else MovedTaps(x, offsets, geometry, wanted)
