"""Where windows lie: the sizes of one call, and the fields that follow from geometry alone.

H, W image; Ho, Wo output positions (P = Ho*Wo); kh, kw taps (K = kh*kw, row-major).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Geometry:
    """The checked geometry of a call. Window p, tap (i, j) lies at ``stride*p - padding + dilation*(i, j)``; pairs are (y, x)."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    """Zeros before the image."""
    padding_after: tuple[int, int]
    """Zeros behind the image."""
    dilation: tuple[int, int]
    image: tuple[int, int]
    output: tuple[int, int]

    @property
    def taps(self) -> int:
        """K, the number of taps."""
        return self.kernel_size[0] * self.kernel_size[1]

    @property
    def tap_indices(self) -> list[tuple[int, int]]:
        """Row-major (i, j) of every tap."""
        return [(i, j) for i in range(self.kernel_size[0]) for j in range(self.kernel_size[1])]

    def slices(self, tap: tuple[int, int]) -> tuple[slice, slice]:
        """The pixels of the zero-padded image at which this tap of all windows lies, (y, x)."""
        y, x = (self.axis_slice(axis, tap[axis]) for axis in (0, 1))
        return y, x

    def axis_slice(self, axis: int, tap: int) -> slice:
        """The same along one axis."""
        start = self.dilation[axis] * tap
        return slice(start, start + self.stride[axis] * (self.output[axis] - 1) + 1, self.stride[axis])


def padded(x: Tensor, geometry: Geometry) -> Tensor:
    """The image between its zeros, so that ``window.slices`` are its pixels."""
    (top, left), (bottom, right) = geometry.padding, geometry.padding_after
    return F.pad(x, (left, right, top, bottom)) if top or left or bottom or right else x


def cropped(canvas: Tensor, geometry: Geometry) -> Tensor:
    """The image inside its padding: the adjoint of :func:`padded`."""
    (top, left), (height, width) = geometry.padding, geometry.image
    return canvas[:, :, top : top + height, left : left + width]


def canvas_size(geometry: Geometry) -> tuple[int, int]:
    """Height and width of the padded image."""
    height, width = (geometry.padding[a] + geometry.image[a] + geometry.padding_after[a] for a in (0, 1))
    return height, width


def canvas(x: Tensor, channels: int, geometry: Geometry) -> Tensor:
    """Zeros of the padded image's size, for sums of values that lie at taps."""
    return x.new_zeros(x.shape[0], channels, *canvas_size(geometry), dtype=precision(x))


def precision(x: Tensor) -> torch.dtype:
    """The dtype in which sums run: at least float32."""
    return torch.promote_types(x.dtype, torch.float32)


def window_shift(geometry: Geometry, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The offsets that keep every window inside the image: neighborhood attention's border rule. ``[1, 1, 1, 2, Ho, Wo]``, pixels.

    A window that would leave the image moves inwards by a multiple of the dilation, so it stays in its residue class.

    Raises:
        ValueError: the image has fewer than ``kernel_size`` pixels in a residue class of ``dilation``.
    Source: Hassani et al., Neighborhood Attention Transformer (CVPR 2023); dilated: Hassani and Shi (2022).
    """
    shifts = []
    for axis, name in ((0, "height"), (1, "width")):
        size, kernel, dilation = geometry.image[axis], geometry.kernel_size[axis], geometry.dilation[axis]
        if size < kernel * dilation:
            raise ValueError(
                f"offsets.kind='window_shift' needs an image {name} of at least kernel_size*dilation, "
                f"got {name}={size}, kernel_size={kernel}, dilation={dilation}"
            )
        centre = torch.arange(geometry.output[axis], device=device) * geometry.stride[axis]
        residue, index = centre % dilation, centre // dilation
        available = (size - residue + dilation - 1) // dilation
        start = index - kernel // 2
        shifts.append((torch.minimum(start.clamp(min=0), available - kernel) - start) * dilation)
    rows, columns = shifts[0][:, None].expand(geometry.output), shifts[1][None, :].expand(geometry.output)
    return torch.stack([rows, columns])[None, None, None].to(dtype)


def scaled_offsets(offsets: Tensor, scale: float, geometry: Geometry) -> Tensor:
    """Offsets and regular grid scaled about the window's centre: ``scale*offset + (scale - 1)*dilation*(t_k - centre)``.

    Args:
        offsets: ``[B, F, K, 2, Ho, Wo]``, (y, x), pixels.
        scale: the factor, 1 leaves everything as it is.
    Source: DCNv3's ``offset_scale`` (Wang et al., InternImage, CVPR 2023).
    """
    if scale == 1.0:
        return offsets
    grid = offsets.new_tensor(
        [
            [d * (t - (k - 1) / 2) for t, k, d in zip(tap, geometry.kernel_size, geometry.dilation, strict=True)]
            for tap in geometry.tap_indices
        ]
    )
    return scale * offsets + (scale - 1.0) * grid[:, :, None, None]


def displacements(geometry: Geometry, device: torch.device) -> tuple[Tensor, Tensor]:
    """How many taps lie between a shifted window's own pixel and what it reads, as indices ``0 .. 2k-2``: row, column ``[K, Ho, Wo]``."""
    shift = window_shift(geometry, dtype=torch.float32, device=device)
    indices = []
    for axis in (0, 1):
        kernel = geometry.kernel_size[axis]
        taps = torch.tensor([tap[axis] for tap in geometry.tap_indices], device=device)
        moved = shift[0, 0, 0, axis].long() // geometry.dilation[axis]
        indices.append(taps[:, None, None] - kernel // 2 + moved + kernel - 1)
    return indices[0], indices[1]


def reads_nothing(geometry: Geometry, offsets: Tensor | None, device: torch.device) -> Tensor:
    """Which taps lie outside the image, where the bilinear read is zero. bool ``[B or 1, F or 1, K, Ho, Wo]``."""
    inside = []
    for axis in (0, 1):
        windows = torch.arange(geometry.output[axis], device=device) * geometry.stride[axis] - geometry.padding[axis]
        taps = torch.tensor([geometry.dilation[axis] * tap[axis] for tap in geometry.tap_indices], device=device)
        grid = taps[:, None, None] + (windows[:, None] if axis == 0 else windows[None, :])
        position = grid[None, None] if offsets is None else grid + offsets[:, :, :, axis].to(precision(offsets))
        inside.append((position > -1) & (position < geometry.image[axis]))
    return ~(inside[0] & inside[1])
