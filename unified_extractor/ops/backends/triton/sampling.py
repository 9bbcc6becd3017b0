"""Sampling: a tap takes a pixel of the regular grid or, with offsets, a bilinear sample of the four pixels around its position."""

# mypy: ignore-errors

from typing import Any, NamedTuple

import triton
import triton.language as tl

from unified_extractor.ops.backends.triton.tiles import at_groups, at_positions, load_group_tile, load_pixels, over_members


class Position(NamedTuple):
    """A sampling position and the four pixels around it; a group tile each."""

    row: Any
    column: Any
    """Upper left pixel. -1 and the last are legal, others lie outside."""
    below: Any
    right: Any
    """Distances from that pixel to the position, down and to the right, in pixels."""
    inside: Any


class Corners(NamedTuple):
    """Values of the four pixels around positions, a tile each; zero outside."""

    upper_left: Any
    upper_right: Any
    lower_left: Any
    lower_right: Any


@triton.jit
def grid_position(i, j, windows, sizes, plan):
    """Return row and column of tap (i, j) on the regular grid, ``[P]`` each."""
    row = windows.row * plan.stride_y - sizes.padding_y + i * plan.dilation_y
    column = windows.column * plan.stride_x - sizes.padding_x + j * plan.dilation_x
    return row, column


@triton.jit
def sample_grid(image, start, i, j, windows, channels, sizes, plan):
    """Return the pixels of tap (i, j) on the regular grid, a tile."""
    row, column = grid_position(i, j, windows, sizes, plan)
    inside = windows.exist & (row >= 0) & (row < sizes.height) & (column >= 0) & (column < sizes.width)
    place = at_positions(row * image.row + column * image.column, plan)
    return load_pixels(image, start, place, at_positions(inside, plan), channels, plan)


@triton.jit
def offset_position(offsets, start, i, j, windows, channels, sizes, plan):
    """Return the position of tap (i, j) with its offset. Not finite or outside: no pixel around it is ever addressed."""
    tap = i * plan.kernel_width + j
    row, column = grid_position(i, j, windows, sizes, plan)
    row, column = at_positions(row, plan), at_positions(column, plan)
    y = row + load_group_tile(offsets, start, 0, tap, windows, channels, plan.offset_channel_groups, plan)
    x = column + load_group_tile(offsets, start, 1, tap, windows, channels, plan.offset_channel_groups, plan)
    inside = (y >= -1) & (y < sizes.height) & (x >= -1) & (x < sizes.width)
    inside &= at_positions(windows.exist, plan) & at_groups(channels.is_group, plan)
    y, x = tl.where(inside, y, 0.0), tl.where(inside, x, 0.0)
    upper, left = tl.floor(y), tl.floor(x)
    index: tl.constexpr = tl.int64 if plan.wide else tl.int32
    return Position(upper.to(index), left.to(index), y - upper, x - left, inside)


@triton.jit
def is_pixel(position, below, right, sizes):
    """Return which positions have a corner inside the image, a group tile."""
    row, column = position.row + below, position.column + right
    return position.inside & (row >= 0) & (row < sizes.height) & (column >= 0) & (column < sizes.width)


@triton.jit
def corner_place(image, position, below, right):
    """Return where a corner lies inside an image, a group tile."""
    return (position.row + below) * image.row + (position.column + right) * image.column


@triton.jit
def load_corner(image, start, position, below, right, channels, sizes, plan):
    """Return the values of one corner, a tile."""
    exist = is_pixel(position, below, right, sizes)
    return load_pixels(image, start, corner_place(image, position, below, right), exist, channels, plan)


@triton.jit
def load_corners(image, start, position, channels, sizes, plan):
    """Return the values of all four corners."""
    return Corners(
        load_corner(image, start, position, 0, 0, channels, sizes, plan),
        load_corner(image, start, position, 0, 1, channels, sizes, plan),
        load_corner(image, start, position, 1, 0, channels, sizes, plan),
        load_corner(image, start, position, 1, 1, channels, sizes, plan),
    )


@triton.jit
def bilinear(position, corners, plan):
    """Return the bilinear samples of the corners, a tile."""
    below, right = over_members(position.below, plan), over_members(position.right, plan)
    upper = (1.0 - right) * corners.upper_left + right * corners.upper_right
    lower = (1.0 - right) * corners.lower_left + right * corners.lower_right
    return (1.0 - below) * upper + below * lower


@triton.jit
def bilinear_derivatives(position, corners, plan):
    """Return the derivatives of bilinear samples by the position's y and x, a tile each."""
    below, right = over_members(position.below, plan), over_members(position.right, plan)
    by_y = (1.0 - right) * (corners.lower_left - corners.upper_left) + right * (corners.lower_right - corners.upper_right)
    by_x = (1.0 - below) * (corners.upper_right - corners.upper_left) + below * (corners.lower_right - corners.lower_left)
    return by_y, by_x


@triton.jit
def sample(image, start, offsets, offsets_start, i, j, windows, channels, sizes, plan):
    """Return what tap (i, j) samples, with its offset if there are offsets, a tile."""
    if plan.has_offsets:
        position = offset_position(offsets, offsets_start, i, j, windows, channels, sizes, plan)
        value = bilinear(position, load_corners(image, start, position, channels, sizes, plan), plan)
    else:
        value = sample_grid(image, start, i, j, windows, channels, sizes, plan)
    return value
