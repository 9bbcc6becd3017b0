"""Records that a kernel takes: tensors with their strides, the sizes of a call, and its compile-time switches.

A kernel reads the fields by name. None of a record's strides assumes a layout: any tensor is read where it lies. ``plan.py`` decides
what stands in the switches.

B batch, C channels, O output channels, G groups of the dynamic kernel or of the offsets, K taps,
J channel groups, N channels of a channel group (``tiles.py`` has the definition), kh, kw kernel size, Ho, Wo output positions.
"""

from functools import lru_cache
from typing import Any, NamedTuple

from torch import Tensor

from unified_extractor.ops.geometry import Geometry


class Image(NamedTuple):
    """An image ``[B, C, h, w]`` or, with a stride for taps, ``[B, C, K, h, w]``: the tensor and its strides."""

    data: Tensor | None
    batch: int
    channel: int
    tap: int
    row: int
    column: int


class WindowValues(NamedTuple):
    """Values at windows that the channels of a group share, ``[B, G, components, K, Ho, Wo]``: the tensor and its strides.

    A component is the output tap of a fold's dynamic kernel, or the axis of an offset.
    """

    data: Tensor | None
    partial_sum: int
    """Stride between the partial sums of a gradient, 0 where there is one."""
    batch: int
    group: int
    component: int
    tap: int
    row: int
    column: int


class Sizes(NamedTuple):
    """Sizes of a call in pixels; numbers that are not compiled into a kernel."""

    height: int
    width: int
    output_height: int
    output_width: int
    padding_y: int
    padding_x: int
    """Padding before the image."""


class Plan(NamedTuple):
    """Compile-time switches of a call; on their way into a kernel each becomes a ``constexpr``."""

    channels_last: bool
    """Tiles are ``[P, J, N]``, else ``[J, N, P]``: neighboring threads have neighbors along the last axis."""
    aggregation: str
    """One of "gather", "fold" and "unfold"."""
    combine: str
    kernel_height: int
    kernel_width: int
    taps: int
    """Number of taps, K."""
    output_taps: int
    """Outputs of a window: K for a fold, else 1."""
    stride_y: int
    stride_x: int
    dilation_y: int
    dilation_x: int
    has_offsets: bool
    has_dynamic_kernel: bool
    adjacent_taps: bool
    """The taps of a window's dynamic kernel are neighbors in memory."""
    static_kernel: str
    """"none", or "depthwise": one weight for each channel and tap."""
    channel_groups: int
    """Number of channel groups, J."""
    group_channels: int
    """Channels of a channel group, N."""
    kernel_channel_groups: int
    """Channel groups that share a dynamic kernel; 0 where there is none."""
    offset_channel_groups: int
    """Channel groups that share offsets; 0 where there are none."""
    tile_positions: int
    tile_channel_groups: int
    tile_group_channels: int
    """Sizes of a program's tile: positions, channel groups, channels of a group; powers of two."""
    group_blocks: int
    """Blocks that the channels of a channel group need; a block is the channels of a tile."""
    blocks: int
    """Blocks that all channels need."""
    kernel_blocks: int
    offset_blocks: int
    """Blocks of the channels that share a dynamic kernel, or offsets: each has a partial sum of their gradient."""
    slice_channels: int
    """Channels of a slice, of which a thread has one (``slices.py``); 0 where programs have tiles."""
    slice_vector: int
    """Channels in 16 bytes of an image."""
    kernel_slices: int
    offset_slices: int
    """Slices that share a dynamic kernel, or offsets; 1 where there is none."""
    one_kernel: bool
    one_offset: bool
    """The dynamic kernel, or the offset of a tap, is the same at every position."""
    wide: bool
    """A tensor of one image spans more than 2^31 elements: addresses inside an image need 64 bits."""
    dtype: str
    interpreted: bool
    """The kernels run in Triton's interpreter, on the CPU."""


def image_record(x: Tensor | None) -> Image:
    """Return the record of an image ``[B, C, h, w]`` or ``[B, C, K, h, w]``."""
    if x is None:
        return Image(None, 0, 0, 0, 0, 0)
    _, channel, *tap, row, column = x.stride()
    return Image(x, _batch_stride(x), channel, tap[0] if tap else 0, row, column)


def dynamic_kernel_record(dynamic_kernel: Tensor | None, fold: bool, partial_sum: int = 0) -> WindowValues:
    """Return the record of a dynamic kernel, ``[B, G, K, Ho, Wo]`` or a fold's ``[B, G, K, K, Ho, Wo]``."""
    if dynamic_kernel is None:
        return WindowValues(None, 0, 0, 0, 0, 0, 0, 0)
    _, group, *output_tap, tap, _, _ = dynamic_kernel.stride()
    component = output_tap[0] if fold else 0
    strides = _position_strides(dynamic_kernel)
    return WindowValues(dynamic_kernel, partial_sum, _batch_stride(dynamic_kernel), group, component, tap, *strides)


def offsets_record(offsets: Tensor | None, partial_sum: int = 0) -> WindowValues:
    """Return the record of offsets ``[B, F, K, 2, Ho, Wo]``."""
    if offsets is None:
        return WindowValues(None, 0, 0, 0, 0, 0, 0, 0)
    _, group, tap, axis, _, _ = offsets.stride()
    return WindowValues(offsets, partial_sum, _batch_stride(offsets), group, axis, tap, *_position_strides(offsets))


def sizes_record(geometry: Geometry) -> Sizes:
    """Return the record of a call's sizes."""
    return Sizes(*geometry.image, *geometry.output, *geometry.padding)


def _batch_stride(tensor: Tensor) -> int:
    """Return the stride from image to image; 0 for a single image, whose stride may be any number and would each be compiled anew."""
    return 0 if tensor.shape[0] == 1 else tensor.stride(0)


def _position_strides(values: Tensor) -> tuple[int, int]:
    """Return the strides from row to row and column to column; 0 along an axis that is broadcast."""
    row, column = (0 if values.shape[axis] == 1 else values.stride(axis) for axis in (-2, -1))
    return row, column


@lru_cache(maxsize=256)
def constants(switches: Any) -> Any:
    """Return compile-time switches, a plan or other record that says whether it is interpreted, as a kernel takes them."""
    from triton.language import constexpr

    return switches if switches.interpreted else type(switches)(*map(constexpr, switches))
