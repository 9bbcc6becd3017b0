"""Positions of the taps of windows, the pixels around a position, and the offset fields that follow from geometry.

B batch, F offset groups, K taps, H, W image, Ho, Wo output positions. Positions are (y, x) in pixels.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from unified_extractor.ops.geometry import Geometry, precision


def tap_positions(
    geometry: Geometry, offsets: Tensor | None, device: torch.device, taps: slice = slice(None)
) -> tuple[Tensor, Tensor]:
    """Return rows and columns of the taps of every window.

    Everything is computed on the device, so that a CUDA graph can capture it.

    Args:
        geometry: the sizes of the call.
        offsets: ``[B, F, K, 2, Ho, Wo]`` in pixels, the last two axes may be 1; None: the regular grid.
        device: where the positions are needed.
        taps: the taps that are asked for; all of them if it is left out.

    Returns:
        Two tensors ``[B, F, taps, Ho, Wo]`` in at least float32; on the regular grid ``[1, 1, taps, Ho, 1]`` and
        ``[1, 1, taps, 1, Wo]`` in float32.
    """
    dtype = torch.float32 if offsets is None else precision(offsets)
    found = []
    for axis in (0, 1):
        window = geometry.window_starts(axis, dtype, device)
        window = window[None, :, None] if axis == 0 else window[None, None, :]
        grid = (window + _tap_starts(geometry, axis, taps, window))[None, None]
        if offsets is not None:
            grid = (grid + offsets[:, :, taps, axis].to(dtype)).expand(-1, -1, -1, *geometry.output)
        found.append(grid)
    return found[0], found[1]


def _tap_starts(geometry: Geometry, axis: int, taps: slice, like: Tensor) -> Tensor | int:
    """Return the positions of taps in the first window along an axis, ``[taps, 1, 1]``; of a single tap a number, which is quicker."""
    indices = geometry.tap_indices[taps]
    if len(indices) == 1:
        return geometry.dilation[axis] * indices[0][axis] - geometry.padding[axis]
    along = torch.arange(geometry.kernel_size[axis], dtype=like.dtype, device=like.device)
    along = (along[:, None] if axis == 0 else along).expand(geometry.kernel_size).flatten()[taps]
    return (along * geometry.dilation[axis] - geometry.padding[axis])[:, None, None]


def samples_nothing(geometry: Geometry, offsets: Tensor | None, device: torch.device) -> Tensor:
    """Return which taps lie outside the image, where the bilinear sample is zero: bool ``[B or 1, F or 1, K, Ho, Wo]``."""
    rows, columns = tap_positions(geometry, offsets, device)
    (height, width) = geometry.image
    return ~((rows > -1) & (rows < height) & (columns > -1) & (columns < width))


class Corners(NamedTuple):
    """The four pixels around each of P positions: upper left, upper right, lower left, lower right. Shapes are ``[..., 4, P]``."""

    pixel: Tensor
    """Row-major index of the pixel; 0 for a corner outside the image."""
    inside: Tensor
    """True for a corner in the image, of a finite position."""
    weight: Tensor
    """Bilinear weight; 0 for a corner outside."""
    slope_y: Tensor
    """Derivative of the weight by the row of the position."""
    slope_x: Tensor
    """Derivative of the weight by the column of the position."""


def bilinear_corners(rows: Tensor, columns: Tensor, image: tuple[int, int]) -> Corners:
    """Return the corners of positions ``[..., P]``, by floor: derivatives are those of the cell to the right and below.

    A position with y < -1, y >= H (likewise x), or one that is not finite, has no corner inside.
    """
    height, width = image
    inside = (rows >= -1) & (rows < height) & (columns >= -1) & (columns < width)
    (y, y_weight, y_slope), (x, x_weight, x_slope) = (_cell(position.where(inside, 0)) for position in (rows, columns))
    y, y_weight, y_slope = (part.repeat_interleave(2, -2) for part in (y, y_weight, y_slope))
    x, x_weight, x_slope = (torch.cat([part, part], -2) for part in (x, x_weight, x_slope))
    inside = inside.unsqueeze(-2) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    pixel = (y.long() * width + x.long()).where(inside, 0)
    return Corners(pixel, inside, (y_weight * x_weight).where(inside, 0), y_slope * x_weight, y_weight * x_slope)


def _cell(position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two pixels around positions ``[..., P]`` along one axis, their weights and the weights' derivatives, ``[..., 2, P]``."""
    low = position.floor()
    after = position - low
    ones = torch.ones_like(after)
    return torch.stack([low, low + 1], -2), torch.stack([1 - after, after], -2), torch.stack([-ones, ones], -2)


def window_shift(geometry: Geometry, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the offsets that keep every window inside the image, neighborhood attention's border rule: ``[1, 1, 1, 2, Ho, Wo]``, pixels.

    A window that would leave the image moves inwards by a multiple of the dilation, so it stays in its residue class.

    Raises:
        ValueError: the image has fewer than ``kernel_size`` pixels in a residue class of ``dilation``.
    Source: Hassani et al., Neighborhood Attention Transformer (CVPR 2023); dilated: Hassani and Shi (2022).
    """
    starts = []
    for axis, name in ((0, "height"), (1, "width")):
        size, kernel, dilation = geometry.image[axis], geometry.kernel_size[axis], geometry.dilation[axis]
        if size < kernel * dilation:
            raise ValueError(
                f"offsets.kind='window_shift' needs an image {name} of at least kernel_size*dilation, "
                f"got {name}={size}, kernel_size={kernel}, dilation={dilation}"
            )
        center = geometry.window_starts(axis, torch.int64, device)
        available = (size - center % dilation + dilation - 1) // dilation
        starts.append(torch.minimum((center // dilation - kernel // 2).clamp(min=0), available - kernel))
    return _shift_to(starts, geometry).to(dtype)


def block_shift(
    geometry: Geometry, halo: tuple[int, int], block_start: tuple[int, int], *, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return the offsets that move every window onto the block of its pixel: ``[1, 1, 1, 2, Ho, Wo]``, pixels.

    Blocks are of the members of a residue class of the dilation, ``kernel_size - 2*halo`` of them. Windows may leave the image.

    Args:
        geometry: the sizes of the call.
        halo: taps that a window has beyond its block on each side, (y, x).
        block_start: place of the first whole block, (y, x) in taps.
        dtype: dtype of the result.
        device: device of the result.
    Sources: Liu et al., Swin Transformer (ICCV 2021); with a halo: Vaswani et al., Scaling Local Self-Attention (HaloNet, CVPR 2021).
    """
    starts = []
    for axis in (0, 1):
        block = geometry.kernel_size[axis] - 2 * halo[axis]
        index = geometry.window_starts(axis, torch.int64, device) // geometry.dilation[axis]
        first = index - (index + block - block_start[axis]) % block
        starts.append(first - halo[axis])
    return _shift_to(starts, geometry).to(dtype)


def _shift_to(starts: list[Tensor], geometry: Geometry) -> Tensor:
    """Return the offsets ``[1, 1, 1, 2, Ho, Wo]`` of windows whose first taps become those members of their pixel's residue class."""
    shifts = []
    for axis, start in enumerate(starts):
        center, dilation = geometry.window_starts(axis, start.dtype, start.device), geometry.dilation[axis]
        shifts.append(center % dilation + start * dilation - (center - geometry.padding[axis]))
    rows, columns = shifts[0][:, None].expand(geometry.output), shifts[1][None, :].expand(geometry.output)
    return torch.stack([rows, columns])[None, None, None]


def relative_positions(geometry: Geometry, shift: Tensor, largest: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return how many taps lie between the pixel of a shifted window and each of its taps, as indices ``0 .. 2*largest``.

    Args:
        geometry: the sizes of the call.
        shift: ``[1, 1, 1, 2, Ho, Wo]``, whole pixels.
        largest: the largest number of taps, (y, x), on either side of a pixel.

    Returns:
        Rows and columns, ``[K, Ho, Wo]``: indices into a table of position biases.
    """
    indices = []
    for axis in (0, 1):
        taps = torch.tensor([tap[axis] for tap in geometry.tap_indices], device=shift.device)
        first = (shift[0, 0, 0, axis].long() - geometry.padding[axis]) // geometry.dilation[axis]
        indices.append(taps[:, None, None] + first + largest[axis])
    return indices[0], indices[1]


def scaled_offsets(offsets: Tensor, scale: float, geometry: Geometry) -> Tensor:
    """Scale offsets and regular grid about the window's center: ``scale*offset + (scale - 1)*dilation*(t_k - center)``.

    Args:
        offsets: ``[B, F, K, 2, Ho, Wo]``, (y, x), pixels.
        scale: the factor; 1 leaves everything as it is.
        geometry: the sizes of the call.
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


def from_center(offsets: Tensor, scale: float, geometry: Geometry) -> Tensor:
    """Return offsets from the regular grid, of those from the pixel at the center of each window; padding keeps the image's size.

    Args:
        offsets: ``[B, F, K, 2, Ho, Wo]``, (y, x), pixels; the last two axes may be 1.
        scale: factor on them.
        geometry: the sizes of the call.
    """
    grid = torch.stack(tap_positions(geometry.first_window, None, offsets.device), 3)
    return scale * offsets - grid.to(offsets.dtype)


def bounded(offsets: Tensor, bound: Literal["clamp", "tanh"], reach: tuple[int, int]) -> Tensor:
    """Return offsets of at most ``reach`` along either axis; a clamped one has no gradient.

    Args:
        offsets: ``[B, F, K, 2, Ho, Wo]``, (y, x), pixels; the last two axes may be 1.
        bound: ``clamp``: larger ones are as large as allowed. ``tanh``: ``reach`` times the hyperbolic tangent.
        reach: (y, x), pixels.
    Sources: clamped: Khalfaoui-Hassani et al., Dilated Convolution with Learnable Spacings (ICLR 2023); ``tanh``: Chan et al., BasicVSR++
    (CVPR 2022).
    """
    limit = offsets.new_tensor(reach)[:, None, None]
    return limit * offsets.tanh() if bound == "tanh" else offsets.clamp(-limit, limit)


def inside_image(offsets: Tensor, geometry: Geometry) -> Tensor:
    """Return offsets, in at least float32, whose sampling points are clamped to the outermost pixels; a clamped one has no gradient.

    Args:
        offsets: ``[B, F, K, 2, Ho, Wo]``, (y, x), pixels.
        geometry: the sizes of the call.
    Source: border padding of Liu et al., Learning to Upsample by Learning to Sample (ICCV 2023).
    """
    dtype, clamped = precision(offsets), []
    for axis, grid in enumerate(tap_positions(geometry, None, offsets.device)):
        first = -grid.to(dtype)
        bounded = offsets[:, :, :, axis].to(dtype).clamp(first, first + geometry.image[axis] - 1)
        clamped.append(bounded.expand(-1, -1, -1, *geometry.output))  # also those of the whole image
    return torch.stack(clamped, 3)


def sub_pixel_offsets(geometry: Geometry, like: Tensor) -> Tensor:
    """Return the places of the windows of a fine grid in the pixel at which they sit, ``[2, Ho, Wo]``: (y, x), pixels from its center.

    The s windows along an axis lie at ``(d - (s - 1)/2) / s``, d = 0 .. s-1, the centers of s equal parts of the pixel.

    Args:
        geometry: the sizes of the call, with ``upsample``.
        like: a tensor with the dtype and device of the result.
    Source: bilinear initialization of Liu et al., Learning to Upsample by Learning to Sample (ICCV 2023).
    """
    places = []
    for axis in (0, 1):
        factor = geometry.upsample[axis]
        windows = torch.arange(geometry.output[axis], dtype=like.dtype, device=like.device)
        places.append((windows % factor - (factor - 1) / 2) / factor)
    return torch.stack([places[0][:, None].expand(geometry.output), places[1][None, :].expand(geometry.output)])
