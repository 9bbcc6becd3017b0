"""Where everything of a call lies: addresses, channel blocks and shares of work, from shapes alone.

B images, C channels, O output channels, K taps, P positions of windows, T positions in a tile, L channels in a block.
"""

from math import gcd, lcm
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unified_extractor.ops.geometry import Geometry

Table = NDArray[np.int64]
Numbers = NDArray[np.floating] | Tensor | None
"""Of the call's dtype; None where a call has none."""
GATHER, FOLD, UNFOLD = 0, 1, 2
"""What becomes of a window: one weighted sum; K sums added on the regular grid; its taps as they are."""
NONE, SOFTMAX, SIGMOID = 0, 1, 2
"""How a generated kernel is normalized."""
_PARTS = 16
"""Of a batch, that may be worked on at once where all channels of an image share a feature, whose gradient each part adds up for itself."""


class Shapes(NamedTuple):
    """All that a plan depends on."""

    geometry: Geometry
    batch: int
    channels: int
    mode: int
    static: tuple[int, int] | None
    """``[O, C/groups]`` of a static kernel that mixes channels; None where each channel stays alone."""
    alone: bool
    """Whether there is one of which each channel has its own."""
    dynamic: tuple[int, int, int] | None
    """Kernel groups, height and width; the latter two may be 1."""
    offsets: tuple[int, int, int] | None
    """Offset groups, height and width; the latter two may be 1."""
    generator: tuple[int, int, int] | None
    """Channels of the feature or of the keys, normalization and heads, where the dynamic kernel is generated."""
    tile: int
    lanes: int
    dtype: str


class Canvas(NamedTuple):
    """A block of L channels of an image, channels last, with zeros around. A place is the first element of a pixel."""

    size: int
    """Elements, among them a spare pixel behind the image and all that can be reached from there."""
    row: int
    """Elements from a pixel to the one below."""
    spare: int
    """The spare pixel: zero, and so are its neighbours."""
    pixels: Table
    """The place of every pixel of the image, then the spare one up to a whole tile."""


class Grouped(NamedTuple):
    """A tensor ``[B, groups, rows, height, width]`` with values for every window, shared by the channels of a group."""

    groups: int
    """0: there is no such tensor."""
    rows: int
    size: int
    """height*width."""
    every: int
    """1: every window has its own; 0: some axis is 1 and windows share."""
    windows: Table
    """Which element of a row is a window's."""


class Generated(NamedTuple):
    """A dynamic kernel that is a linear map of a feature, or query-key products. I results of a window."""

    depth: int
    """R, channels of the feature; 0 without a linear map."""
    width: int
    """The same, filled up to whole blocks of L."""
    rows: int
    """I*K, values of a group."""
    columns: int
    """The same, filled up to whole blocks of L."""
    normalization: int
    size: int
    """Of the feature's canvas ``[P, width]``, P filled up to a whole tile."""
    places: Table
    """Of every position in it."""
    heads: int
    """G of query-key products; 0 without."""
    channels: int
    """E, of query and keys."""
    key_blocks: int
    """Blocks of L channels of a head's keys."""
    unit_heads: int
    """Heads of a unit."""
    inside: Table
    """For every tile 1 where all taps of its windows lie in the image."""


class Blocks(NamedTuple):
    """The channels in blocks of at most L that share everything; one entry a block."""

    channel: Table
    """The first channel."""
    size: Table
    """How many."""
    kernel: Table
    """Group of the dynamic kernel."""
    offsets: Table
    """Group of the offsets."""
    mix: Table
    """Group of the static kernel, where that mixes channels."""
    member: Table
    """Which block of that group it is."""
    lane: Table
    """Of every channel, not block: its place among all lanes of all blocks."""


class Space(NamedTuple):
    """Where a thread's buffers start in its memory; I results, B blocks of a unit."""

    image: int
    """Canvases ``[B]``."""
    fold: int
    """Canvases ``[B]``."""
    weights: int
    """Staged dynamic kernel ``[I, K, T]``; ones without one."""
    moves: int
    """Staged offsets ``[K, 2, T]``."""
    corner_weights: int
    """``[4, K, T]``: of the upper left, upper right, lower left, lower right pixel."""
    beyond: int
    """``[2, K, T]``: how far a position lies below and right of the upper left pixel."""
    sampled: int
    """``[K, T, L]``."""
    columns: int
    """Weighed taps of the blocks that a static kernel mixes, ``[blocks, K, T, L]``."""
    edge: int
    """A tile, ``[L, T]``."""
    feature: int
    """Canvas ``[P, width]``."""
    keys: int
    """Canvases of the keys ``[heads of a unit, blocks of a head]``."""
    image_gradient: int
    """This and the following are for backward alone."""
    weights_gradient: int
    moves_gradient: int
    sampled_gradient: int
    products: int
    """Of gradients and corners, ``[4, K, T]``."""
    outputs: int
    """Gradient of a group's mixed outputs, ``[blocks, T, L]``."""
    outer: int
    """A tile, ``[T, L]``."""
    feature_gradient: int
    keys_gradient: int
    end: int


class Plan(NamedTuple):
    """All numbers and tables the loops need."""

    mode: int
    batch: int
    channels: int
    outputs: int
    pixels: int
    positions: int
    taps: int
    results: int
    """Outputs of a window: 1, or K for a fold."""
    image: Canvas
    """Holds the image: on the regular grid with room for every tap, else with one pixel of zeros around."""
    fold: Canvas
    """Holds what a fold adds up."""
    windows: Table
    """The place of every window's first tap on the regular grid, then the spare one up to a whole tile."""
    taps_at: Table
    """What every tap adds to it."""
    tile: Table
    """The places of a tile's positions among sampled values ``[K, T, L]``."""
    tile_taps: Table
    row_of: Numbers
    """y of every window's first tap in pixels, then one outside the image up to a whole tile."""
    column_of: Numbers
    """x."""
    tap_row: Numbers
    """What every tap adds to y."""
    tap_column: Numbers
    height: int
    width: int
    dynamic: Grouped
    generated: Generated
    offsets: Grouped
    blocks: Blocks
    alone: int
    """1: there is a static kernel of which each channel has its own."""
    mixes: int
    """Groups of a static kernel that mixes channels; 0 where each stays alone."""
    mix_blocks: int
    """Blocks of such a group."""
    mix_outputs: int
    """Output channels of such a group."""
    mix_width: int
    """The same, filled up to whole blocks."""
    units: Table
    """First block of every unit, and the end. A unit holds whole groups of every kind: no other shares its sums."""
    unit_size: int
    """Blocks of a unit."""
    unit_count: int
    bundle: int
    """Units that are worked off one after the other: one, or several where they share a feature."""
    bundle_count: int
    block_count: int
    space: Space
    work: int
    """Multiply-adds of a forward pass."""


def plan_for(shapes: Shapes) -> Plan:
    """The plan of all calls with these shapes."""
    geometry, tile, lanes = shapes.geometry, shapes.tile, shapes.lanes
    positions, channels = geometry.output[0] * geometry.output[1], shapes.channels
    results = geometry.taps if shapes.mode == FOLD else 1
    regular = _canvas(shapes, before=geometry.padding, size=_extent(geometry), reach=_reach(geometry))
    border = _canvas(shapes, before=(1, 1), size=(geometry.image[0] + 2, geometry.image[1] + 2), reach=(1, 1))
    starts = [np.arange(geometry.output[a]) * geometry.stride[a] for a in (0, 1)]
    taps = [np.array(axis) * geometry.dilation[a] for a, axis in enumerate(zip(*geometry.tap_indices, strict=True))]
    grid = [axis.ravel() for axis in np.meshgrid(*starts, indexing="ij")]
    outside = -2 - max(_extent(geometry))
    mixes = channels // shapes.static[1] if shapes.static else 0
    mix_outputs = shapes.static[0] // mixes if shapes.static else 0
    blocks = _blocks(shapes, mixes)
    units = _units(shapes, mixes, blocks)
    image = border if shapes.offsets else regular
    fold = regular if shapes.mode == FOLD else regular._replace(size=0)
    unit_count = len(units) - 1
    generated = _generated(shapes, results * geometry.taps, unit_count)
    bundle = max(1, -(-unit_count * min(shapes.batch, _PARTS) // _PARTS)) if generated.depth else 1
    mix_blocks, mix_width = (len(blocks.channel) // mixes, _whole(mix_outputs, lanes)) if mixes else (0, 0)
    return Plan(
        mode=shapes.mode,
        batch=shapes.batch,
        channels=channels,
        outputs=shapes.static[0] if shapes.static else channels,
        pixels=geometry.image[0] * geometry.image[1],
        positions=positions,
        taps=geometry.taps,
        results=results,
        image=image,
        fold=fold,
        windows=_filled(grid[0] * regular.row + grid[1] * lanes, tile, regular.spare),
        taps_at=taps[0] * regular.row + taps[1] * lanes,
        tile=np.arange(tile) * lanes,
        tile_taps=np.arange(geometry.taps) * tile * lanes,
        row_of=_filled(grid[0] - geometry.padding[0], tile, outside).astype(shapes.dtype),
        column_of=_filled(grid[1] - geometry.padding[1], tile, outside).astype(shapes.dtype),
        tap_row=taps[0].astype(shapes.dtype),
        tap_column=taps[1].astype(shapes.dtype),
        height=geometry.image[0],
        width=geometry.image[1],
        dynamic=_grouped(shapes.dynamic, results * geometry.taps, geometry, tile),
        generated=generated,
        offsets=_grouped(shapes.offsets, 2 * geometry.taps, geometry, tile),
        blocks=blocks,
        alone=int(shapes.alone),
        mixes=mixes,
        mix_blocks=mix_blocks,
        mix_outputs=mix_outputs,
        mix_width=mix_width,
        units=units,
        unit_size=int(units[1]),
        unit_count=unit_count,
        bundle=bundle,
        bundle_count=-(-unit_count // bundle),
        block_count=len(blocks.channel),
        space=_space(shapes, generated, int(units[1]), image, fold, mix_blocks, mix_width),
        work=shapes.batch * positions * results * geometry.taps * (channels * max(mix_outputs, 1) + _generating(shapes)),
    )


def _generating(shapes: Shapes) -> int:
    """Multiply-adds of a generated kernel for one of its taps."""
    if shapes.generator is None or shapes.dynamic is None:
        return 0
    channels, _, heads = shapes.generator
    return channels if heads else shapes.dynamic[0] * channels


def _generated(shapes: Shapes, rows: int, units: int) -> Generated:
    channels, normalization, heads = shapes.generator or (0, NONE, 0)
    depth, positions = 0 if heads else channels, shapes.geometry.output[0] * shapes.geometry.output[1]
    width, count = _whole(depth, shapes.lanes), _whole(positions, shapes.tile)
    return Generated(
        depth=depth,
        width=width,
        rows=rows,
        columns=_whole(rows, shapes.lanes),
        normalization=normalization,
        size=count * width,
        places=np.arange(count) * width,
        heads=heads,
        channels=channels if heads else 0,
        key_blocks=-(-channels // heads // shapes.lanes) if heads else 0,
        unit_heads=heads // units if heads else 0,
        inside=_inside(shapes),
    )


def _inside(shapes: Shapes) -> Table:
    """Which tiles have windows whose taps all lie in the image."""
    geometry = shapes.geometry
    axes = []
    for axis in (0, 1):
        first = np.arange(geometry.output[axis]) * geometry.stride[axis] - geometry.padding[axis]
        axes.append((first >= 0) & (first + _reach(geometry)[axis] < geometry.image[axis]))
    return _filled((axes[0][:, None] & axes[1]).ravel().astype(np.int64), shapes.tile, 0).reshape(-1, shapes.tile).min(1)


def _space(
    shapes: Shapes, generated: Generated, unit: int, image: Canvas, fold: Canvas, mix_blocks: int, mix_width: int
) -> Space:
    keys = generated.unit_heads * generated.key_blocks * image.size
    tile, weights = shapes.tile * shapes.lanes, generated.columns * shapes.tile
    taps, sampled = shapes.geometry.taps * shapes.tile, shapes.geometry.taps * tile if shapes.offsets else 0
    sizes = {
        "image": unit * image.size,
        "fold": unit * fold.size,
        "weights": weights,
        "moves": 2 * taps,
        "corner_weights": 4 * taps,
        "beyond": 2 * taps,
        "sampled": sampled,
        "columns": mix_blocks * shapes.geometry.taps * tile,
        "edge": tile,
        "feature": generated.size,
        "keys": keys,
        "image_gradient": unit * image.size,
        "weights_gradient": weights,
        "moves_gradient": 2 * taps,
        "sampled_gradient": sampled,
        "products": 4 * taps,
        "outputs": mix_width * shapes.tile,
        "outer": tile,
        "feature_gradient": generated.size,
        "keys_gradient": keys,
    }
    starts = np.cumsum([0, *(_whole(size, 16) for size in sizes.values())])  # 16 numbers: at least a cache line
    return Space(**dict(zip(Space._fields, map(int, starts), strict=True)))


def _reach(geometry: Geometry) -> tuple[int, int]:
    """Pixels from a window's first tap to its last."""
    return geometry.dilation[0] * (geometry.kernel_size[0] - 1), geometry.dilation[1] * (geometry.kernel_size[1] - 1)


def _extent(geometry: Geometry) -> tuple[int, int]:
    """Pixels from the first that a window reads or the first of the image, to the last of either."""
    height, width = (
        max(geometry.padding[a] + geometry.image[a], geometry.stride[a] * (geometry.output[a] - 1) + _reach(geometry)[a] + 1)
        for a in (0, 1)
    )
    return height, width


def _canvas(shapes: Shapes, before: tuple[int, int], size: tuple[int, int], reach: tuple[int, int]) -> Canvas:
    rows, columns = np.divmod(np.arange(shapes.geometry.image[0] * shapes.geometry.image[1]), shapes.geometry.image[1])
    spare = size[0] * size[1]
    pixels = _filled((rows + before[0]) * size[1] + columns + before[1], shapes.tile, spare)
    lanes = shapes.lanes
    return Canvas((spare + reach[0] * size[1] + reach[1] + 1) * lanes, size[1] * lanes, spare * lanes, pixels * lanes)


def _grouped(shape: tuple[int, int, int] | None, rows: int, geometry: Geometry, tile: int) -> Grouped:
    groups, height, width = shape or (0, 1, 1)
    y, x = (np.minimum(np.arange(geometry.output[a]), size - 1) for a, size in ((0, height), (1, width)))
    index = (y[:, None] * width + x).ravel()
    return Grouped(groups, rows, height * width, int((height, width) == geometry.output), _filled(index, tile, 0))


def _blocks(shapes: Shapes, mixes: int) -> Blocks:
    """Channel blocks that cross no border of any group."""
    channels = shapes.channels
    sizes = {name: channels // groups if groups else channels for name, groups in _group_counts(shapes, mixes).items()}
    step = gcd(*sizes.values())
    channel = np.array([first + c for first in range(0, channels, step) for c in range(0, step, shapes.lanes)])
    member = np.arange(len(channel)) % (len(channel) // mixes) if mixes else np.zeros_like(channel)
    size = np.minimum(step - channel % step, shapes.lanes)
    lane = np.concatenate([block * shapes.lanes + np.arange(n) for block, n in enumerate(size)])
    kernel, offsets, mix = (channel // sizes[name] for name in ("kernel", "offsets", "mix"))
    return Blocks(channel, size, kernel, offsets, mix, member, lane)


def _units(shapes: Shapes, mixes: int, blocks: Blocks) -> Table:
    """The fewest blocks that hold whole groups of every kind."""
    size = lcm(*(shapes.channels // groups if groups else 1 for groups in _group_counts(shapes, mixes).values()))
    in_unit = max(int(np.count_nonzero(blocks.channel < size)), 1)
    return np.arange(0, len(blocks.channel) + 1, in_unit)


def _group_counts(shapes: Shapes, mixes: int) -> dict[str, int]:
    """How many groups of each kind; 0: none."""
    return {
        "kernel": shapes.dynamic[0] if shapes.dynamic else 0,
        "offsets": shapes.offsets[0] if shapes.offsets else 0,
        "mix": mixes,
    }


def _whole(size: int, tile: int) -> int:
    return -(-size // tile) * tile


def _filled(places: Table, tile: int, rest: int) -> Table:
    """The table, filled up to a whole tile."""
    table = np.full(_whole(len(places), tile), rest, np.int64)
    table[: len(places)] = places
    return table
