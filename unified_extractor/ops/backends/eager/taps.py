"""Samples of one tap of all windows, and the gradients of image and offsets.

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
    """Value of the pixel, ``[B, F, N, 4, P]``."""
    weight: Tensor
    """Bilinear weight ``[B, F, 1, 4, P]``."""
    slope: Tensor
    """Derivative of the weight by the position's y and x, ``[B, F, 2, 4, P]``."""


class Tap(NamedTuple):
    """The samples of tap k of every window."""

    k: int
    value: Tensor
    """Samples ``[B, C, Ho, Wo]``."""
    corners: Corners | None = None
    """The pixels of a bilinear sample; None on the regular grid."""


class Wanted(NamedTuple):
    """The gradients that are asked for."""

    x: bool
    offsets: bool


EVERY = Wanted(x=True, offsets=True)


class RegularTaps:
    """Taps on the regular grid: views of the padded image."""

    def __init__(self, x: Tensor, geometry: Geometry, wanted: Wanted) -> None:
        self.geometry, self.wanted = geometry, wanted
        self.image = padded(x, geometry)
        self.grad_x: Tensor | None = None

    def sample(self, k: int) -> Tap:
        """Return the samples of tap k: a view of the image."""
        rows, columns = self.geometry.slices(self.geometry.tap_indices[k])
        return Tap(k, self.image[:, :, rows, columns])

    def add_gradient(self, tap: Tap, gradient: Tensor) -> None:
        """Add the gradient of a tap's value, ``[B, C, Ho, Wo]``, to that of the image."""
        if not self.wanted.x:
            return
        if self.grad_x is None:
            self.grad_x = canvas(gradient, self.image.shape[1], self.geometry)  # batched, if the gradient is
        rows, columns = self.geometry.slices(self.geometry.tap_indices[tap.k])
        self.grad_x[:, :, rows, columns] += gradient

    def gradients(self) -> tuple[Tensor | None, None]:
        """Return the gradients of image and offsets, once that of every tap was added; None where none is wanted."""
        return None if self.grad_x is None else cropped(self.grad_x, self.geometry).to(self.image.dtype), None


class OffsetTaps:
    """Taps with offsets, sampled bilinearly. A position that is not finite or outside has no corner in the image."""

    def __init__(self, x: Tensor, offsets: Tensor, geometry: Geometry, wanted: Wanted) -> None:
        self.geometry, self.shape, self.offsets, self.wanted = geometry, x.shape, offsets, wanted
        self.image = self._by_offset_group(x)
        self.grad_x: Tensor | None = None
        self.grad_offsets: list[Tensor] = []

    def sample(self, k: int) -> Tap:
        """Return the bilinear samples of tap k."""
        corners = self._corners(*self._positions(slice(k, k + 1)))
        return Tap(k, self._interpolated(corners).unflatten(2, self.geometry.output), corners)

    def columns(self) -> Tensor:
        """Return the bilinear samples of all taps, ``[B, C, K, Ho, Wo]``: taps are further positions."""
        samples = self._interpolated(self._corners(*self._positions(slice(None))))
        return samples.unflatten(2, (self.geometry.taps, *self.geometry.output))

    def _interpolated(self, corners: Corners) -> Tensor:
        return (corners.weight * corners.value).sum(3).flatten(1, 2)

    def _by_offset_group(self, value: Tensor) -> Tensor:
        """Return ``[B, C, h, w]`` as ``[B, F, N, h*w]``."""
        return value.flatten(2).unflatten(1, (self.offsets.shape[1], -1))

    def _positions(self, taps: slice) -> tuple[Tensor, Tensor]:
        """Return y and x of some taps of every window, ``[B, F, taps*P]``."""
        geometry, found = self.geometry, []
        for axis in (0, 1):
            offsets = self.offsets[:, :, taps, axis].to(precision(self.offsets))
            starts = [geometry.dilation[axis] * tap[axis] - geometry.padding[axis] for tap in geometry.tap_indices[taps]]
            start = starts[0] if len(starts) == 1 else offsets.new_tensor(starts)[:, None, None]
            grid = torch.arange(geometry.output[axis], dtype=offsets.dtype, device=offsets.device) * geometry.stride[axis]
            grid = (grid[:, None] if axis == 0 else grid) + start
            found.append((grid + offsets).expand(-1, -1, -1, *geometry.output).flatten(2))
        return found[0], found[1]

    def _corners(self, row: Tensor, column: Tensor) -> Corners:
        """Return the four corners of positions ``[B, F, P]``, floor-based: derivatives are those of the cell to the right and below."""
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

    def add_gradient(self, tap: Tap, gradient: Tensor) -> None:
        """Add the gradient of a tap's value, ``[B, C, Ho, Wo]``, to those of the image and the offsets."""
        assert tap.corners is not None
        pixel, value, weight, slope = tap.corners
        gradient = self._by_offset_group(gradient).unsqueeze(3)
        if self.wanted.x:
            if self.grad_x is None:
                self.grad_x = gradient.new_zeros(self.image.shape)
            self.grad_x.scatter_add_(3, self._by_channel(pixel), (weight * gradient).flatten(3))
        if self.wanted.offsets:
            grad_tap = ((value * gradient).sum(2, keepdim=True) * slope).sum(3).unflatten(3, self.geometry.output)
            self.grad_offsets.append(grad_tap.sum_to_size(*self.offsets[:, :, tap.k].shape))

    def gradients(self) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of image and offsets, once that of every tap was added; None where none is wanted."""
        grad_x = None if self.grad_x is None else self.grad_x.view(self.shape).to(self.image.dtype)
        return grad_x, torch.stack(self.grad_offsets, 2).to(self.offsets.dtype) if self.grad_offsets else None


def _cell(position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two pixels around positions ``[B, F, P]`` along one axis, their weights and the weights' derivatives, ``[B, F, 2, P]``."""
    low = position.floor()
    after = position - low
    ones = torch.ones_like(after)
    return torch.stack([low, low + 1], 2), torch.stack([1 - after, after], 2), torch.stack([-ones, ones], 2)


def taps_of(x: Tensor, offsets: Tensor | None, geometry: Geometry, wanted: Wanted = EVERY) -> RegularTaps | OffsetTaps:
    """Return the taps of all windows; ``wanted``: the gradients that will be asked for."""
    return RegularTaps(x, geometry, wanted) if offsets is None else OffsetTaps(x, offsets, geometry, wanted)
