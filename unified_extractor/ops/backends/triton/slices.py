"""Slices: how a thread samples where the channels of an image are neighbors and come in multiples of 16 bytes.

A *slice* is one or two times 16 bytes of channels that share all groups of the call. A thread has one slice of one window: the position
of a tap, its corners and their weights are computed once, and each corner is loaded in pieces of 16 bytes. Without offsets a tap lies on
a pixel, which is its upper left corner and the only one. Nothing passes between threads.
"""

# mypy: ignore-errors

from typing import Any, NamedTuple

import triton
import triton.language as tl

from unified_extractor.ops.backends.triton.tiles import precise


class Slices(NamedTuple):
    """The windows and slices of a program's threads, ``[T]`` each."""

    batch: Any
    row: Any
    column: Any
    index: Any
    """The slice among those of all channels."""
    exist: Any
    first: Any
    """The channel at which the piece begins that is loaded first. Windows in turn begin with the one or the other of two: eight threads
    that load at once then find their pieces in different banks of the cache."""
    second: Any
    """The channel at which the other piece begins."""


class SliceCorners(NamedTuple):
    """A tap's position and the four pixels around it, ``[T]`` each; on the regular grid only what the first one needs has a meaning."""

    row: Any
    column: Any
    """Upper left pixel. -1 and the last are legal."""
    below: Any
    right: Any
    """Distances from that pixel to the position."""
    inside: Any
    upper_left: Any
    upper_right: Any
    lower_left: Any
    lower_right: Any
    """True for corners that are pixels."""


@triton.jit
def slices_of_program(sizes, plan, THREADS: tl.constexpr):
    """Return the windows and slices of this program's threads."""
    slices: tl.constexpr = plan.channel_groups * plan.group_channels // plan.slice_channels
    programs = tl.cdiv(sizes.output_height * sizes.output_width * slices, THREADS)
    place = tl.program_id(0) % programs * THREADS + tl.arange(0, THREADS)
    position, index = place // slices, place % slices
    row = position // sizes.output_width
    turn = (position & 1) * plan.slice_vector if plan.slice_channels > plan.slice_vector else 0
    first = index * plan.slice_channels + turn
    second = index * plan.slice_channels + (plan.slice_vector - turn)
    batch = (tl.program_id(0) // programs).to(tl.int64)
    return Slices(batch, row, position % sizes.output_width, index, row < sizes.output_height, first, second)


@triton.jit
def slice_place(values, slices, SHARING: tl.constexpr):
    """Return where the values of windows lie that SHARING slices share."""
    return slices.row * values.row + slices.column * values.column + slices.index // SHARING * values.group


@triton.jit
def load_slice_value(values, start, place, component, tap, slices):
    """Return a value of each slice, ``[T]``."""
    pointers = start + place + (component * values.component + tap * values.tap)
    return precise(tl.load(pointers, mask=slices.exist, other=0.0))


@triton.jit
def slice_corners(offsets, start, place, i, j, slices, sizes, plan):
    """Return the corners of tap (i, j). Not finite or outside: no pixel around it is ever addressed."""
    row = slices.row * plan.stride_y - sizes.padding_y + i * plan.dilation_y
    column = slices.column * plan.stride_x - sizes.padding_x + j * plan.dilation_x
    if plan.has_offsets:
        tap = i * plan.kernel_width + j
        y = row + load_slice_value(offsets, start, place, 0, tap, slices)
        x = column + load_slice_value(offsets, start, place, 1, tap, slices)
        inside = slices.exist & (y >= -1) & (y < sizes.height) & (x >= -1) & (x < sizes.width)
        y, x = tl.where(inside, y, 0.0), tl.where(inside, x, 0.0)
        floor_y, floor_x = tl.floor(y), tl.floor(x)
        top, left = floor_y.to(tl.int32), floor_x.to(tl.int32)
        upper, lower = inside & (top >= 0), inside & (top + 1 < sizes.height)
        has_left, has_right = left >= 0, left + 1 < sizes.width
        corners = SliceCorners(
            top,
            left,
            y - floor_y,
            x - floor_x,
            inside,
            upper & has_left,
            upper & has_right,
            lower & has_left,
            lower & has_right,
        )
    else:
        inside = slices.exist & (row >= 0) & (row < sizes.height) & (column >= 0) & (column < sizes.width)
        corners = SliceCorners(row, column, inside, inside, inside, inside, inside, inside, inside)
    return corners


@triton.jit
def corner_weights(corners, factor, plan):
    """Return the weights of the four corners times a factor, ``[T]`` each."""
    if plan.has_offsets:
        lower = factor * corners.below
        upper = factor - lower
        upper_right, lower_right = upper * corners.right, lower * corners.right
        weights = upper - upper_right, upper_right, lower - lower_right, lower_right
    else:
        weights = factor, factor, factor, factor
    return weights


@triton.jit
def corner_pointers(image, start, corners, channel, VECTOR: tl.constexpr):
    """Return the pointers to a piece of the upper left corner, ``[T, VECTOR]``."""
    place = corners.row * image.row + corners.column * image.column + channel * image.channel
    return start + place[:, None] + (tl.arange(0, VECTOR) * image.channel)[None, :]


@triton.jit
def load_piece(pointers, mask):
    """Return a piece of a pixel, zero where there is none, ``[T, VECTOR]``."""
    return precise(tl.load(pointers, mask=mask[:, None], other=0.0))


@triton.jit
def window_pointers(image, start, slices, channel, VECTOR: tl.constexpr):
    """Return the pointers to a piece of an image that has a value for each window, ``[T, VECTOR]``."""
    place = slices.row * image.row + slices.column * image.column + channel * image.channel
    return start + place[:, None] + (tl.arange(0, VECTOR) * image.channel)[None, :]


@triton.jit
def sum_over_sharing(values, SHARING: tl.constexpr):
    """Return for each slice the sum over the SHARING slices, a power of two, that share a group."""
    if SHARING > 1:
        count: tl.constexpr = values.shape[0] // SHARING
        sums = tl.sum(tl.reshape(values, [count, SHARING]), 1, keep_dims=True)
        values = tl.reshape(tl.broadcast_to(sums, [count, SHARING]), [count * SHARING])
    return values
