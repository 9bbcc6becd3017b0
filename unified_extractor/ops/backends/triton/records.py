"""What the kernels are called with: tensors with their strides, the sizes of a call, and its compile-time switches.

A kernel reads the fields by name. None of a record's strides assumes a layout: any tensor is read where it lies.

B batch, C channels, G groups of either kind, K taps, U units, N channels of a unit, O output channels of a convolution group.
"""

from functools import lru_cache
from typing import NamedTuple

from torch import Tensor


class Image(NamedTuple):
    """``[B, C, h, w]``; with a stride for taps, ``[B, C, K, h, w]``."""

    data: Tensor | None
    batch: int
    channel: int
    tap: int
    row: int
    column: int


class Field(NamedTuple):
    """Values at windows, one for all channels of a group: ``[B, G, parts, K, Ho, Wo]``.

    A part is the output tap of a fold's dynamic kernel, or the axis of an offset.
    """

    data: Tensor | None
    share: int
    """Where a gradient has several shares, to be summed: the stride between them."""
    batch: int
    group: int
    part: int
    tap: int
    row: int
    column: int


class Map(NamedTuple):
    """What makes a dynamic kernel, in the place of its field: the feature ``[B, R, Ho, Wo]``, and the linear map, scale included."""

    data: Tensor | None
    batch: int
    channel: int
    row: int
    column: int
    weight: Tensor
    """``[G*K, R]``."""
    bias: Tensor | None


class Sizes(NamedTuple):
    """Pixels."""

    height: int
    width: int
    rows: int
    columns: int
    """Output positions: Ho, Wo."""
    top: int
    left: int
    """Padding before the image."""


class Plan(NamedTuple):
    """Compile-time switches; on their way into a kernel each becomes a ``constexpr``."""

    channels_last: bool
    """Tiles are [positions, units, channels of a unit], else [units, channels of a unit, positions]: the last axis runs along lanes."""
    aggregation: str
    """gather, fold or unfold."""
    combine: str
    rows: int
    columns: int
    """Taps: kh, kw."""
    taps: int
    """K."""
    results: int
    """Outputs of a window: K for a fold."""
    stride_y: int
    stride_x: int
    dilation_y: int
    dilation_x: int
    moved: bool
    """There are offsets."""
    dynamic: bool
    """There is a dynamic kernel, in memory or generated."""
    together: bool
    """Its taps are neighbours in memory."""
    depth: int
    """Channels of the feature that the dynamic kernel is generated from; 0: it lies in memory."""
    tile_depth: int
    """The same, filled up to a power of two."""
    normalization: str
    """Of a generated kernel: none or sigmoid; softmax over at most sixteen taps."""
    static: str
    """none, each (one weight a channel and tap) or mixing."""
    units: int
    """U. A unit is the channels that share every group: dynamic kernel, offsets, convolution group."""
    unit: int
    """N."""
    kernel_units: int
    """Units of a dynamic kernel's group."""
    offset_units: int
    """Units of an offset group."""
    mixing_units: int
    """Units of a convolution group, where the static kernel is mixing."""
    outputs: int
    """Output channels of a convolution group, where the static kernel is mixing."""
    all_outputs: int
    """O."""
    tile_positions: int
    tile_units: int
    tile_unit: int
    tile_outputs: int
    """A program's tile: positions, units, channels of a unit, output channels; powers of two."""
    chunks: int
    """Tiles that the channels of a unit need."""
    blocks: int
    """Tiles that all channels need."""
    kernel_tiles: int
    offset_tiles: int
    """Tiles that the channels of a group need: each has a share in what is summed over the group."""
    one_kernel: bool
    one_offset: bool
    """The dynamic kernel, the offsets are the same at every position."""
    wide: bool
    """A tensor of one image spans more than 2^31 elements: addresses inside an image need 64 bits."""
    dtype: str
    precision: str
    """Of a matrix product of float32: ieee or tf32."""
    interpreted: bool
    """Triton's interpreter runs the kernels, on the CPU."""


@lru_cache(maxsize=256)
def constants(plan: Plan) -> Plan:
    """The plan as a kernel takes it."""
    from triton.language import constexpr

    return plan if plan.interpreted else Plan(*map(constexpr, plan))
