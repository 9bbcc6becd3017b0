"""What a tap reads: a pixel of the regular grid or, moved by an offset, a bilinear mixture of the four around its position."""

# mypy: ignore-errors

from typing import Any, NamedTuple

import triton
import triton.language as tl

from unified_extractor.ops.backends.triton.tiles import across, at_positions, at_units, field, pixels


class Cell(NamedTuple):
    """The four pixels around positions; a pair each."""

    row: Any
    column: Any
    """Of the upper left one. -1 and the last are legal, others lie outside."""
    below: Any
    right: Any
    """How far below and to the right of it the position lies, in pixels."""
    inside: Any


class Corners(NamedTuple):
    """What the four pixels hold, a tile each; zero outside."""

    upper_left: Any
    upper_right: Any
    lower_left: Any
    lower_right: Any


@triton.jit
def regular(image, start, i, j, windows, channels, sizes, plan):
    """A tile: the pixels of tap (i, j) on the regular grid."""
    row = windows.row * plan.stride_y - sizes.top + i * plan.dilation_y
    column = windows.column * plan.stride_x - sizes.left + j * plan.dilation_x
    inside = windows.exist & (row >= 0) & (row < sizes.height) & (column >= 0) & (column < sizes.width)
    place = at_positions(row * image.row + column * image.column, plan)
    return pixels(image, start, place, at_positions(inside, plan), channels, plan)


@triton.jit
def cell_of(offsets, start, i, j, windows, channels, sizes, plan):
    """Where tap (i, j) lies once moved. What is not finite or outside is nowhere: no pixel of it is ever addressed."""
    tap = i * plan.columns + j
    row = at_positions(windows.row * plan.stride_y - sizes.top + i * plan.dilation_y, plan)
    column = at_positions(windows.column * plan.stride_x - sizes.left + j * plan.dilation_x, plan)
    y = row + field(offsets, start, 0, tap, windows, channels, plan.offset_units, plan)
    x = column + field(offsets, start, 1, tap, windows, channels, plan.offset_units, plan)
    inside = (y >= -1) & (y < sizes.height) & (x >= -1) & (x < sizes.width)
    inside &= at_positions(windows.exist, plan) & at_units(channels.is_unit, plan)
    y, x = tl.where(inside, y, 0.0), tl.where(inside, x, 0.0)
    upper, left = tl.floor(y), tl.floor(x)
    index: tl.constexpr = tl.int64 if plan.wide else tl.int32
    return Cell(upper.to(index), left.to(index), y - upper, x - left, inside)


@triton.jit
def is_pixel(cell, below, right, sizes):
    """Whether a corner lies in the image, a pair."""
    row, column = cell.row + below, cell.column + right
    return cell.inside & (row >= 0) & (row < sizes.height) & (column >= 0) & (column < sizes.width)


@triton.jit
def place_of(image, cell, below, right):
    """Where a corner lies, a pair."""
    return (cell.row + below) * image.row + (cell.column + right) * image.column


@triton.jit
def corner(image, start, cell, below, right, channels, sizes, plan):
    """What a corner holds, a tile."""
    return pixels(image, start, place_of(image, cell, below, right), is_pixel(cell, below, right, sizes), channels, plan)


@triton.jit
def corners_of(image, start, cell, channels, sizes, plan):
    """What all four hold."""
    return Corners(
        corner(image, start, cell, 0, 0, channels, sizes, plan),
        corner(image, start, cell, 0, 1, channels, sizes, plan),
        corner(image, start, cell, 1, 0, channels, sizes, plan),
        corner(image, start, cell, 1, 1, channels, sizes, plan),
    )


@triton.jit
def blended(cell, corners, plan):
    """The bilinear mixture."""
    below, right = across(cell.below, plan), across(cell.right, plan)
    upper = (1.0 - right) * corners.upper_left + right * corners.upper_right
    lower = (1.0 - right) * corners.lower_left + right * corners.lower_right
    return (1.0 - below) * upper + below * lower


@triton.jit
def slopes(cell, corners, plan):
    """Its derivatives by the position's y and x."""
    below, right = across(cell.below, plan), across(cell.right, plan)
    by_row = (1.0 - right) * (corners.lower_left - corners.upper_left) + right * (corners.lower_right - corners.upper_right)
    by_column = (1.0 - below) * (corners.upper_right - corners.upper_left) + below * (corners.lower_right - corners.lower_left)
    return by_row, by_column


@triton.jit
def sample(image, start, offsets, offsets_start, i, j, windows, channels, sizes, plan):
    """What tap (i, j) reads, a tile."""
    if plan.moved:
        cell = cell_of(offsets, offsets_start, i, j, windows, channels, sizes, plan)
        value = blended(cell, corners_of(image, start, cell, channels, sizes, plan), plan)
    else:
        value = regular(image, start, i, j, windows, channels, sizes, plan)
    return value
