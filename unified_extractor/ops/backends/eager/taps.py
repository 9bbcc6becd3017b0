"""Samples of one tap of all windows, and the gradients of image and offsets.

B batch, C channels, F offset groups, N = C/F, Ho, Wo output positions, P = Ho*Wo.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from unified_extractor.ops.geometry import Geometry, canvas, cropped, padded
from unified_extractor.ops.offsets import bilinear_corners, tap_positions


class SampledCorners(NamedTuple):
    """The four pixels around every position of a tap, with their values."""

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
    corners: SampledCorners | None = None
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
        corners = self._corners(slice(k, k + 1))
        return Tap(k, self._interpolated(corners).unflatten(2, self.geometry.output), corners)

    def columns(self) -> Tensor:
        """Return the bilinear samples of all taps, ``[B, C, K, Ho, Wo]``: taps are further positions."""
        samples = self._interpolated(self._corners(slice(None)))
        return samples.unflatten(2, (self.geometry.taps, *self.geometry.output))

    def _interpolated(self, corners: SampledCorners) -> Tensor:
        return (corners.weight * corners.value).sum(3).flatten(1, 2)

    def _by_offset_group(self, value: Tensor) -> Tensor:
        """Return ``[B, C, h, w]`` as ``[B, F, N, h*w]``."""
        return value.flatten(2).unflatten(1, (self.offsets.shape[1], -1))

    def _corners(self, taps: slice) -> SampledCorners:
        """Return the corners of some taps of every window, which are further positions: ``P`` counts those of all of them."""
        rows, columns = tap_positions(self.geometry, self.offsets, self.offsets.device, taps)
        found = bilinear_corners(rows.flatten(2), columns.flatten(2), self.geometry.image)
        pixel = found.pixel.flatten(2).unsqueeze(2)
        value = self.image.gather(3, self._by_channel(pixel)).unflatten(3, (4, -1)).where(found.inside.unsqueeze(2), 0)
        return SampledCorners(pixel, value, found.weight.unsqueeze(2), torch.stack([found.slope_y, found.slope_x], 2))

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


def taps_of(x: Tensor, offsets: Tensor | None, geometry: Geometry, wanted: Wanted = EVERY) -> RegularTaps | OffsetTaps:
    """Return the taps of all windows; ``wanted``: the gradients that will be asked for."""
    return RegularTaps(x, geometry, wanted) if offsets is None else OffsetTaps(x, offsets, geometry, wanted)
