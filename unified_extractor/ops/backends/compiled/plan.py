"""The plan of a call, from its shapes alone: where pixels, windows, channels and buffers lie, and how the work is divided.

B images, C channels, O output channels, G kernel groups, K taps, P positions of windows, T positions in a tile, L channels (lanes) of a
channel block, I outputs of a window (1; fold: K).
"""

from math import gcd, lcm
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unified_extractor.ops.cost import attention_kernel_multiply_adds, linear_kernel_multiply_adds, multiply_adds
from unified_extractor.ops.geometry import Geometry

Table = NDArray[np.int64]
Numbers = NDArray[np.floating] | Tensor | None
"""Numbers of the call's dtype; None where a call has none."""
GATHER, FOLD, UNFOLD = 0, 1, 2
"""The aggregations: one weighted sum a window; K sums added on the regular grid; the sampled taps themselves."""
NONE, SOFTMAX, SIGMOID = 0, 1, 2
"""The normalizations of a computed kernel."""
_MOST_ITEMS = 16
"""Work items of a batch, where all channels of an image share a feature: each item adds up a partial sum of the feature's gradient."""


class Shapes(NamedTuple):
    """All that a plan depends on."""

    geometry: Geometry
    batch: int
    channels: int
    aggregation: int
    dense: tuple[int, int] | None
    """``[O, C/groups]`` of a dense or grouped static kernel; None without one."""
    depthwise: bool
    """A depthwise static kernel is there."""
    dynamic_kernel: tuple[int, int, int] | None
    """Kernel groups, height and width; the latter two may be 1."""
    offsets: tuple[int, int, int] | None
    """Offset groups, height and width; the latter two may be 1."""
    terms: tuple[int, int]
    """M, and the values of a window in one term's dynamic kernel, K or 1; zeros where kernels have no axis of terms."""
    computed: tuple[int, int, int] | None
    """Channels of the feature or of the keys, normalization and heads, where the loops compute the dynamic kernel."""
    tile: int
    lanes: int
    dtype: str


class Raster(NamedTuple):
    """A number for each position of a map, row after row, that grows evenly along both axes: ``table[p % width] + (p // width) * step``.
    Of windows that are upsampled, a row here has all windows of a row of places.

    The table goes on behind its first row, so that a tile of T positions from p on reads T numbers in a row. It is read at the start of
    a tile (``raster_start``). A plan holds numbers of a row, not of a whole image.
    """

    width: int
    """The positions of a row."""
    step: int
    """The number from a position to the one below."""
    last: int
    """The first position of the last tile if that is not full, else beyond all."""
    tail: int
    """The place in the table of that tile's numbers, to which nothing is to be added."""
    table: Table


class Canvas(NamedTuple):
    """A channel block of an image, channels last, with zeros around. A *place* is the first element of a pixel."""

    size: int
    """Elements, among them a spare pixel behind the image and all that can be reached from there."""
    row: int
    """Elements from a pixel to the one below."""
    spare: int
    """The place of the spare pixel: it is zero, and so are its neighbors."""
    pixels: Raster
    """The place of every pixel of the image, then the spare one up to a whole tile."""


class WindowValues(NamedTuple):
    """A tensor ``[B, groups, rows, height, width]`` with values for every window, shared by the channels of a group."""

    groups: int
    """The number of groups; 0 where there is no such tensor."""
    rows: int
    """The values of a window."""
    size: int
    """The elements of a row, height*width."""
    per_window: int
    """1 where every window has values of its own; 0 where an axis is 1 and windows share them."""
    elements: Raster
    """The element of a row that belongs to every window."""


class ComputedSizes(NamedTuple):
    """The sizes of a dynamic kernel that the loops compute, by a linear map of a feature or by query-key products; 0 without one."""

    depth: int
    """R, channels of the feature; 0 without a linear map."""
    padded_depth: int
    """R, filled up to whole vectors of L."""
    rows: int
    """I*K, values of a kernel group."""
    padded_rows: int
    """I*K, filled up to whole vectors of L."""
    normalization: int
    size: int
    """Elements of the feature's canvas ``[P, padded_depth]``, P filled up to a whole tile."""
    places: Raster
    """The place of every position in the feature's canvas."""
    heads: int
    """G of query-key products; 0 without."""
    channels: int
    """E, channels of query and keys."""
    key_blocks: int
    """Channel blocks of a head's keys."""
    range_heads: int
    """Heads of a channel range."""


class Inner(NamedTuple):
    """The windows that have all taps in the image, first and end of their rows and columns."""

    top: int
    bottom: int
    left: int
    right: int
    width: int
    """All windows of a row."""


class ChannelBlocks(NamedTuple):
    """The channels in blocks of at most L that share every group; one entry a block."""

    channel: Table
    """The first channel."""
    size: Table
    """The number of channels."""
    kernel_group: Table
    """The group of the dynamic kernel."""
    offset_group: Table
    """The group of the offsets."""
    dense_group: Table
    """The group of a dense or grouped static kernel."""
    dense_block: Table
    """The number of the block within that group."""
    lane: Table
    """One entry a channel, not a block: its place among all lanes of all blocks."""


class Buffers(NamedTuple):
    """Starts of a thread's buffers in its memory. N is the number of channel blocks of a channel range."""

    image: int
    """Canvases ``[N]`` of the image."""
    fold: int
    """Canvases ``[N]`` of what a fold adds up."""
    weights: int
    """The dynamic kernel of a tile, ``[I, K, T]``, of several terms ``[M, K or 1, T]``; ones without a dynamic kernel."""
    corners: int
    """The places of upper left pixels, integers ``[K, T]``."""
    offsets: int
    """The offsets of a tile, ``[K, 2, T]``."""
    corner_weights: int
    """Bilinear weights ``[4, K, T]`` of the upper left, upper right, lower left and lower right pixel."""
    fractions: int
    """``[2, K, T]``: how far a position lies below and right of the upper left pixel."""
    windows: int
    """y and x of the first taps of a tile, in pixels, ``[2, T]``."""
    sampled: int
    """Bilinear samples ``[K, T, L]``."""
    columns: int
    """Weighted taps of a dense group, ``[blocks, K, T, L]``."""
    edge: int
    """A tile ``[L, T]`` with fewer channels or positions than L and T."""
    feature: int
    """The feature's canvas ``[P, padded_depth]``."""
    keys: int
    """Canvases of the keys, ``[heads of a channel range, blocks of a head]``."""
    grad_image: int
    """The first buffer that backward alone needs."""
    grad_weights: int
    grad_offsets: int
    grad_sampled: int
    corner_products: int
    """Products of gradient and pixel, summed over channels, for every corner: ``[4, K, T]``."""
    grad_outputs: int
    """The gradient of a dense group's outputs, ``[blocks, T, L]``."""
    weighted: int
    """A weighted tap, ``[T, L]``; of several terms the output's gradient times each one's value, ``[M, T, L]``."""
    grad_feature: int
    grad_keys: int
    end: int


class Plan(NamedTuple):
    """All numbers and tables that the loops need."""

    aggregation: int
    batch: int
    channels: int
    outputs: int
    pixels: int
    positions: int
    taps: int
    results: int
    """I, outputs of a window: 1, or K for a fold."""
    image: Canvas
    """Layout of the image's canvases: on the regular grid with room for every tap, with offsets with one pixel of zeros around."""
    fold: Canvas
    """Layout of the canvases of what a fold adds up."""
    windows: Raster
    """The place of every window's first tap on the regular grid, then the spare one up to a whole tile."""
    inner: Inner
    tap_shifts: Table
    """The elements from a window's first tap to every tap."""
    sample_places: Table
    """The places of a tile's positions among bilinear samples ``[K, T, L]``."""
    sample_shifts: Table
    """The elements from the samples of the first tap to those of every tap."""
    window_y: Raster
    """y of every window's first tap in pixels, then one outside the image up to a whole tile."""
    window_x: Raster
    """x of every window's first tap in pixels, then one outside the image up to a whole tile."""
    tap_y: Numbers
    """The pixels from a window's first tap down to every tap."""
    tap_x: Numbers
    """The pixels from a window's first tap right to every tap."""
    height: int
    width: int
    dynamic_kernel: WindowValues
    computed: ComputedSizes
    offsets: WindowValues
    blocks: ChannelBlocks
    lanes: int
    depthwise: int
    """1 where a depthwise static kernel is there, else 0."""
    terms: int
    """M, the products of kernels that are summed; 0 where kernels have no axis of terms."""
    dense_groups: int
    """Groups of a dense or grouped static kernel; 0 without one."""
    dense_blocks: int
    """Channel blocks of such a group."""
    dense_outputs: int
    """Output channels of such a group."""
    padded_outputs: int
    """Output channels of such a group, filled up to whole vectors of L."""
    channel_ranges: Table
    """First block of every channel range, and the end. A channel range holds whole groups of every kind, so no other adds to its sums."""
    range_size: int
    """Channel blocks of a channel range."""
    range_count: int
    bundle: int
    """Channel ranges that a work item takes one after the other: one, or several where they share a feature."""
    bundle_count: int
    block_count: int
    buffers: Buffers
    multiply_adds: int
    """Multiply-adds of a forward pass."""


def plan_for(shapes: Shapes) -> Plan:
    """Return the plan of all calls with these shapes."""
    geometry, tile, lanes, repeats = shapes.geometry, shapes.tile, shapes.lanes, shapes.geometry.upsample
    positions, channels = geometry.output[0] * geometry.output[1], shapes.channels
    results = geometry.taps if shapes.aggregation == FOLD else 1
    regular = _canvas(shapes, before=geometry.padding, size=_extent(geometry), reach=_reach(geometry))
    border = _canvas(shapes, before=(1, 1), size=(geometry.image[0] + 2, geometry.image[1] + 2), reach=(1, 1))
    taps = [np.array(axis) * geometry.dilation[a] for a, axis in enumerate(zip(*geometry.tap_indices, strict=True))]
    rows, columns, top, left = *geometry.stride, *geometry.padding
    outside = -2 - max(_extent(geometry))
    dense_groups = channels // shapes.dense[1] if shapes.dense else 0
    dense_outputs = shapes.dense[0] // dense_groups if shapes.dense else 0
    blocks = _blocks(shapes, dense_groups)
    channel_ranges = _channel_ranges(shapes, dense_groups, blocks)
    image = border if shapes.offsets else regular
    fold = regular if shapes.aggregation == FOLD else regular._replace(size=0)
    range_count = len(channel_ranges) - 1
    computed = _computed(shapes, results * geometry.taps, range_count)
    bundle = max(1, -(-range_count * min(shapes.batch, _MOST_ITEMS) // _MOST_ITEMS)) if computed.depth else 1
    dense_blocks, padded_outputs = (
        (len(blocks.channel) // dense_groups, _rounded_up(dense_outputs, lanes)) if dense_groups else (0, 0)
    )
    return Plan(
        aggregation=shapes.aggregation,
        batch=shapes.batch,
        channels=channels,
        outputs=shapes.dense[0] if shapes.dense else channels,
        pixels=geometry.image[0] * geometry.image[1],
        positions=positions,
        taps=geometry.taps,
        results=results,
        image=image,
        fold=fold,
        windows=_raster(geometry.output, (rows * regular.row, columns * lanes), tile, repeats, rest=regular.spare),
        inner=_inner(geometry),
        tap_shifts=taps[0] * regular.row + taps[1] * lanes,
        sample_places=np.arange(tile) * lanes,
        sample_shifts=np.arange(geometry.taps) * tile * lanes,
        window_y=_raster(geometry.output, (rows, 0), tile, repeats, first=-top, rest=outside),
        window_x=_raster(geometry.output, (0, columns), tile, repeats, first=-left, rest=outside),
        tap_y=taps[0].astype(shapes.dtype),
        tap_x=taps[1].astype(shapes.dtype),
        height=geometry.image[0],
        width=geometry.image[1],
        dynamic_kernel=_window_values(shapes.dynamic_kernel, shapes.terms[1] or results * geometry.taps, geometry, tile),
        computed=computed,
        offsets=_window_values(shapes.offsets, 2 * geometry.taps, geometry, tile),
        blocks=blocks,
        lanes=lanes,
        depthwise=int(shapes.depthwise),
        terms=shapes.terms[0],
        dense_groups=dense_groups,
        dense_blocks=dense_blocks,
        dense_outputs=dense_outputs,
        padded_outputs=padded_outputs,
        channel_ranges=channel_ranges,
        range_size=int(channel_ranges[1]),
        range_count=range_count,
        bundle=bundle,
        bundle_count=-(-range_count // bundle),
        block_count=len(blocks.channel),
        buffers=_buffers(shapes, computed, int(channel_ranges[1]), image, fold, dense_blocks, padded_outputs),
        multiply_adds=shapes.batch * _multiply_adds(shapes, results * max(dense_outputs, 1), computed),
    )


def _multiply_adds(shapes: Shapes, results: int, computed: ComputedSizes) -> int:
    """Return the multiply-adds of an image's forward pass; ``results`` are those of a window for each channel."""
    use = multiply_adds(shapes.geometry, shapes.channels, results=results, terms=max(shapes.terms[0], 1))
    if computed.heads:
        return use + attention_kernel_multiply_adds(shapes.geometry, computed.channels)
    if computed.depth and shapes.dynamic_kernel is not None:
        return use + linear_kernel_multiply_adds(shapes.geometry, shapes.dynamic_kernel[0] * computed.rows, computed.depth)
    return use


def _computed(shapes: Shapes, rows: int, channel_ranges: int) -> ComputedSizes:
    channels, normalization, heads = shapes.computed or (0, NONE, 0)
    depth, positions = 0 if heads else channels, shapes.geometry.output[0] * shapes.geometry.output[1]
    padded_depth, count = _rounded_up(depth, shapes.lanes), _rounded_up(positions, shapes.tile)
    return ComputedSizes(
        depth=depth,
        padded_depth=padded_depth,
        rows=rows,
        padded_rows=_rounded_up(rows, shapes.lanes),
        normalization=normalization,
        size=count * padded_depth,
        places=_raster((1, count), (0, padded_depth), shapes.tile),
        heads=heads,
        channels=channels if heads else 0,
        key_blocks=-(-channels // heads // shapes.lanes) if heads else 0,
        range_heads=heads // channel_ranges if heads else 0,
    )


def _inner(geometry: Geometry) -> Inner:
    """Return which windows have all taps in the image."""
    (top, bottom), (left, right) = (_inner_range(geometry, axis) for axis in (0, 1))
    return Inner(top, bottom, left, right, geometry.output[1])


def _inner_range(geometry: Geometry, axis: int) -> tuple[int, int]:
    """Return the first window along an axis that has all taps in the image, and the end of such windows."""
    stride, padding, room = geometry.stride[axis], geometry.padding[axis], geometry.image[axis] - _reach(geometry)[axis]
    first, repeats = -(-padding // stride), geometry.upsample[axis]
    end = max(first, min(geometry.places[axis], (room + padding - 1) // stride + 1))
    return first * repeats, end * repeats


def _buffers(
    shapes: Shapes,
    computed: ComputedSizes,
    range_size: int,
    image: Canvas,
    fold: Canvas,
    dense_blocks: int,
    padded_outputs: int,
) -> Buffers:
    keys = computed.range_heads * computed.key_blocks * image.size
    tile, weights = shapes.tile * shapes.lanes, max(computed.padded_rows, shapes.terms[0] * shapes.terms[1]) * shapes.tile
    taps, sampled = shapes.geometry.taps * shapes.tile, shapes.geometry.taps * tile if shapes.offsets else 0
    sizes = {
        "image": range_size * image.size,
        "fold": range_size * fold.size,
        "weights": weights,
        "corners": taps * 8 // np.dtype(shapes.dtype).itemsize,
        "offsets": 2 * taps,
        "corner_weights": 4 * taps,
        "fractions": 2 * taps,
        "windows": 2 * shapes.tile,
        "sampled": sampled,
        "columns": dense_blocks * shapes.geometry.taps * tile,
        "edge": tile,
        "feature": computed.size,
        "keys": keys,
        "grad_image": range_size * image.size,
        "grad_weights": weights,
        "grad_offsets": 2 * taps,
        "grad_sampled": sampled,
        "corner_products": 4 * taps,
        "grad_outputs": padded_outputs * shapes.tile,
        "weighted": max(shapes.terms[0], 1) * tile,
        "grad_feature": computed.size,
        "grad_keys": keys,
    }
    starts = np.cumsum([0, *(_rounded_up(size, 16) for size in sizes.values())])  # 16 numbers: at least a cache line
    return Buffers(**dict(zip(Buffers._fields, map(int, starts), strict=True)))


def _reach(geometry: Geometry) -> tuple[int, int]:
    """Return the pixels from a window's first tap to its last, (y, x)."""
    return geometry.dilation[0] * (geometry.kernel_size[0] - 1), geometry.dilation[1] * (geometry.kernel_size[1] - 1)


def _extent(geometry: Geometry) -> tuple[int, int]:
    """Return height and width of the smallest canvas that holds the image and every tap."""
    height, width = (
        max(geometry.padding[a] + geometry.image[a], geometry.stride[a] * (geometry.places[a] - 1) + _reach(geometry)[a] + 1)
        for a in (0, 1)
    )
    return height, width


def _canvas(shapes: Shapes, before: tuple[int, int], size: tuple[int, int], reach: tuple[int, int]) -> Canvas:
    lanes, spare = shapes.lanes, size[0] * size[1]
    first = (before[0] * size[1] + before[1]) * lanes
    pixels = _raster(shapes.geometry.image, (size[1] * lanes, lanes), shapes.tile, first=first, rest=spare * lanes)
    return Canvas((spare + reach[0] * size[1] + reach[1] + 1) * lanes, size[1] * lanes, spare * lanes, pixels)


def _window_values(shape: tuple[int, int, int] | None, rows: int, geometry: Geometry, tile: int) -> WindowValues:
    groups, height, width = shape or (0, 1, 1)
    elements = _raster(geometry.output, (width if height > 1 else 0, 1 if width > 1 else 0), tile)
    return WindowValues(groups, rows, height * width, int((height, width) == geometry.output), elements)


def _blocks(shapes: Shapes, dense_groups: int) -> ChannelBlocks:
    """Return channel blocks that cross no border of any group."""
    channels = shapes.channels
    sizes = {name: channels // groups if groups else channels for name, groups in _group_counts(shapes, dense_groups).items()}
    step = gcd(*sizes.values())
    channel = np.array([first + c for first in range(0, channels, step) for c in range(0, step, shapes.lanes)])
    dense_block = np.arange(len(channel)) % (len(channel) // dense_groups) if dense_groups else np.zeros_like(channel)
    size = np.minimum(step - channel % step, shapes.lanes)
    lane = np.concatenate([block * shapes.lanes + np.arange(n) for block, n in enumerate(size)])
    kernel_group, offset_group, dense_group = (channel // sizes[name] for name in ("kernel", "offsets", "dense"))
    return ChannelBlocks(channel, size, kernel_group, offset_group, dense_group, dense_block, lane)


def _channel_ranges(shapes: Shapes, dense_groups: int, blocks: ChannelBlocks) -> Table:
    """Return the shortest channel ranges that hold whole groups of every kind, as the first block of each and the end."""
    size = lcm(*(shapes.channels // groups if groups else 1 for groups in _group_counts(shapes, dense_groups).values()))
    in_range = max(int(np.count_nonzero(blocks.channel < size)), 1)
    return np.arange(0, len(blocks.channel) + 1, in_range)


def _group_counts(shapes: Shapes, dense_groups: int) -> dict[str, int]:
    """Return the number of groups of each kind; 0 where there are none."""
    return {
        "kernel": shapes.dynamic_kernel[0] if shapes.dynamic_kernel else 0,
        "offsets": shapes.offsets[0] if shapes.offsets else 0,
        "dense": dense_groups,
    }


def _rounded_up(size: int, tile: int) -> int:
    """Return the smallest multiple of ``tile`` that is not below ``size``."""
    return -(-size // tile) * tile


def _raster(
    size: tuple[int, int],
    steps: tuple[int, int],
    tile: int,
    repeats: tuple[int, int] = (1, 1),
    *,
    first: int = 0,
    rest: int = 0,
) -> Raster:
    """Return the raster of a map of this size.

    Args:
        size: rows and columns.
        steps: growth along y and x, from one position, or group of positions, to the next.
        tile: T.
        repeats: neighbors along y and x that have the same number.
        first: the first number.
        rest: the number behind all positions.
    """
    height, columns = size
    if repeats == (1, 1) and (height == 1 or steps[0] == steps[1] * columns):  # one long row
        columns = tile
        steps = (steps[1] * tile, steps[1])
    width, positions = columns * repeats[0], size[0] * size[1]

    def numbers(position: Table) -> Table:
        row, place = np.divmod(position, width)
        numbers: Table = first + row * steps[0] + place % columns // repeats[1] * steps[1]
        return numbers

    last = positions // tile * tile
    left = np.arange(last, positions)
    tail = np.full(tile, rest)
    tail[: len(left)] = numbers(left)
    table = np.concatenate([numbers(np.arange(width + tile)), tail])
    return Raster(width, steps[0], last, width + tile, table.astype(np.int64))
