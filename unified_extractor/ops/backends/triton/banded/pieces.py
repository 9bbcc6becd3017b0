"""Pieces: neighboring outputs of a class, and how their pixels are read and written.

S pieces of a program, R pixels or windows that a product adds up, P outputs of a row of a piece, U groups, N channels of a group.
"""

# mypy: ignore-errors

from typing import Any, NamedTuple

import triton
import triton.language as tl

from unified_extractor.ops.backends.triton.banded.weights import operand
from unified_extractor.ops.backends.triton.tiles import as_index


class Pieces(NamedTuple):
    """The place of a program in the grid: image, block of channels, and for each of its pieces, ``[S]``, first output and class."""

    batch: Any
    block: Any
    row: Any
    column: Any
    """First row and column among the outputs of the class."""
    class_y: Any
    class_x: Any


@triton.jit
def pieces_of_program(
    height, width, classes_y, classes_x, blocks, PIECES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Return the pieces of this program. Behind the last piece it comes again: its results are written twice, the same ones."""
    in_a_row = tl.cdiv(tl.cdiv(width, classes_x), COLUMNS)
    number = tl.cdiv(tl.cdiv(height, classes_y), ROWS) * classes_y * classes_x * in_a_row
    tiles = tl.cdiv(number, PIECES)
    index = tl.program_id(0)
    block, rest = index % blocks, index // blocks
    tile, batch = rest % tiles, rest // tiles
    piece = tl.minimum(tile * PIECES + tl.arange(0, PIECES), number - 1)
    column, piece = piece % in_a_row, piece // in_a_row
    class_x, piece = piece % classes_x, piece // classes_x
    class_y, row = piece % classes_y, piece // classes_y
    return Pieces(batch.to(tl.int64), block, row * ROWS, column * COLUMNS, class_y, class_x)


@triton.jit
def groups_of_block(block, plan, band):
    """Return the groups of a block, ``[U]``; behind the last group it comes again."""
    group = block * band.groups + tl.arange(0, band.groups)
    return group if band.is_whole else tl.minimum(group, plan.channel_groups - 1)


@triton.jit
def channels_of_groups(block, member_block, plan, band):
    """Return the channels of a block of groups and a block of their members, ``[U*N]``."""
    first = block * (band.groups * plan.group_channels) + member_block * band.members
    return first + tl.arange(0, band.groups * band.members)


@triton.jit
def image_pointers(image, start, row, column, channel, plan):
    """Return the pointers of pixels, ``[S, A, U*N]``: row ``[S]``, column ``[S, A]``, channel ``[U*N]``."""
    place = (as_index(row, plan) * image.row)[:, None] + as_index(column, plan) * image.column
    return start + place[:, :, None] + (as_index(channel, plan) * image.channel)[None, None, :]


@triton.jit
def image_mask(inside, channel, plan, band):
    """Return which pixels exist, ``[S, A, U*N]`` or ``[S, A, 1]``, from ``[S, A]``."""
    mask = inside[:, :, None]
    return mask if band.is_whole else mask & (channel < plan.channel_groups * plan.group_channels)[None, None, :]


@triton.jit
def channels_by_pixels(tile, plan, band):
    """Return a tile ``[S, A, U*N]`` as operand of a product, ``[S*U, N, A]``."""
    tile = tl.reshape(tile, [tile.shape[0], tile.shape[1], band.groups, band.members])
    tile = tl.permute(tile, (0, 2, 3, 1))
    return operand(tl.reshape(tile, [tile.shape[0] * tile.shape[1], tile.shape[2], tile.shape[3]]), plan)


@triton.jit
def pixels_by_channels(tile, plan, band):
    """Return a tile ``[S, A, U*N]`` as operand of a product, ``[S*U, A, N]``."""
    tile = tl.reshape(tile, [tile.shape[0], tile.shape[1], band.groups, band.members])
    tile = tl.permute(tile, (0, 2, 1, 3))
    return operand(tl.reshape(tile, [tile.shape[0] * tile.shape[1], tile.shape[2], tile.shape[3]]), plan)


@triton.jit
def store_sums(image, start, sums, row, column, exist, channel, plan, band):
    """Write sums ``[S*U, N, P]`` at pixels that exist: row ``[S]``, column and exist ``[S, P]``."""
    pieces: tl.constexpr = column.shape[0]
    tile = tl.permute(tl.reshape(sums, [pieces, band.groups, band.members, column.shape[1]]), (0, 3, 1, 2))
    tile = tl.reshape(tile, [pieces, column.shape[1], band.groups * band.members])
    pointers = image_pointers(image, start, row, column, channel, plan)
    tl.store(pointers, tile.to(image.data.dtype.element_ty), mask=image_mask(exist, channel, plan, band))
