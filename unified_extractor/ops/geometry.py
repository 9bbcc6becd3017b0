"""The sizes of one call: where windows lie, and the zero-padded image that they sample.

H, W image; Ho, Wo output positions (P = Ho*Wo); kh, kw taps (K = kh*kw, row-major).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Geometry(NamedTuple):
    """The checked sizes of a call. Pairs are (y, x).

    Tap (i, j) of window p lies at ``stride*floor(p / upsample) - padding + dilation*(i, j)``, where stride or upsample is 1.
    """

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    """Zeros before the image."""
    padding_after: tuple[int, int]
    """Zeros behind the image."""
    dilation: tuple[int, int]
    image: tuple[int, int]
    output: tuple[int, int]
    upsample: tuple[int, int] = (1, 1)
    """Windows of the output for each place of the grid of stride 1."""

    @property
    def taps(self) -> int:
        """K, the number of taps of a window."""
        return self.kernel_size[0] * self.kernel_size[1]

    @property
    def tap_indices(self) -> list[tuple[int, int]]:
        """The row-major indices (i, j) of all taps."""
        return [(i, j) for i in range(self.kernel_size[0]) for j in range(self.kernel_size[1])]

    @property
    def positions(self) -> int:
        """P, the number of windows of an image."""
        return self.output[0] * self.output[1]

    @property
    def places(self) -> tuple[int, int]:
        """Return the rows and columns of places at which windows sit: of the output, upsampled of the grid of stride 1."""
        return self.output[0] // self.upsample[0], self.output[1] // self.upsample[1]

    @property
    def first_window(self) -> "Geometry":
        """The sizes of a call that has the first window alone."""
        return self._replace(output=(1, 1), upsample=(1, 1))

    def window_starts(self, axis: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return the first taps of all windows along an axis, in pixels of the zero-padded image."""
        windows = torch.arange(self.output[axis], dtype=dtype, device=device)
        if self.upsample[axis] > 1:
            windows = torch.div(windows, self.upsample[axis], rounding_mode="floor")
        return windows * self.stride[axis]

    def with_upsample(self, upsample: tuple[int, int]) -> "Geometry":
        """Return the geometry with another number of windows at each place."""
        (rows, columns), (down, right) = self.places, upsample
        return self._replace(output=(rows * down, columns * right), upsample=upsample)

    def narrowed(self, kernel_size: tuple[int, int]) -> "Geometry":
        """Return the geometry of smaller windows around the same pixels, an even number of taps less on either axis."""
        axes = zip(self.kernel_size, kernel_size, self.dilation, strict=True)
        rows, columns = ((large - small) // 2 * dilation for large, small, dilation in axes)
        before, after = ((pad[0] - rows, pad[1] - columns) for pad in (self.padding, self.padding_after))
        return self._replace(kernel_size=kernel_size, padding=before, padding_after=after)

    def slices(self, tap: tuple[int, int]) -> tuple[slice, slice]:
        """Return the pixels of the zero-padded image at which this tap of all windows lies, (y, x)."""
        y, x = (self.axis_slice(axis, tap[axis]) for axis in (0, 1))
        return y, x

    def axis_slice(self, axis: int, tap: int) -> slice:
        """Return these pixels along one axis."""
        start = self.dilation[axis] * tap
        return slice(start, start + self.stride[axis] * (self.output[axis] - 1) + 1, self.stride[axis])


def at_centers(x: Tensor, stride: tuple[int, int]) -> Tensor:
    """Return the pixels of an image at the centers of windows that are ``stride`` apart, ``[B, C, ceil(H/stride), ceil(W/stride)]``."""
    return x if stride == (1, 1) else F.avg_pool2d(x, 1, stride)  # exporters prove its size, and not that of a slice


def padded(x: Tensor, geometry: Geometry) -> Tensor:
    """Return the image between its zeros, so that ``geometry.slices`` are its pixels."""
    (top, left), (bottom, right) = geometry.padding, geometry.padding_after
    return F.pad(x, (left, right, top, bottom)) if top or left or bottom or right else x


def cropped(canvas: Tensor, geometry: Geometry) -> Tensor:
    """Return the image inside its padding; this is the derivative of :func:`padded`, transposed."""
    (top, left), (height, width) = geometry.padding, geometry.image
    return canvas[:, :, top : top + height, left : left + width]


def canvas_size(geometry: Geometry) -> tuple[int, int]:
    """Return height and width of the padded image."""
    height, width = (geometry.padding[a] + geometry.image[a] + geometry.padding_after[a] for a in (0, 1))
    return height, width


def canvas(x: Tensor, channels: int, geometry: Geometry) -> Tensor:
    """Return zeros of the padded image's size, for sums of values that lie at taps."""
    return x.new_zeros(x.shape[0], channels, *canvas_size(geometry), dtype=precision(x))


def precision(x: Tensor) -> torch.dtype:
    """Return the dtype in which sums run: at least float32."""
    return torch.promote_types(x.dtype, torch.float32)
