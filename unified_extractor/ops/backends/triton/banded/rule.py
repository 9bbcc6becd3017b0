"""The rule that says which calls are banded matrix products, and the compile-time sizes of those."""

from math import gcd
from typing import NamedTuple

import torch

from unified_extractor.ops.backends.triton.plan import channel_groups_of, is_channels_last
from unified_extractor.ops.backends.triton.records import WindowValues
from unified_extractor.ops.call import Call

_LEAST_CHANNELS = 16
"""Channels of a group in a matrix product are a multiple of these."""
_PROGRAM_CHANNELS = 64
"""Channels of a program, where there are as many: 128 bytes, a line of the cache."""
_PIXELS = 16
"""Pixels, or windows, that one product adds up: the depth of a product in the matrix units."""
_PRODUCT_WINDOWS = 8
"""Least windows of a product."""
_MOST_PRODUCTS = 32
"""Most products that a window takes part in. A kernel's code has each of them apart, and would take minutes to compile with more."""


class Band(NamedTuple):
    """Compile-time sizes of the banded products of a call; on their way into a kernel each becomes a ``constexpr``."""

    groups: int
    """Groups of a program, a power of two."""
    members: int
    """Channels of a group in a program, a power of two."""
    member_blocks: int
    """Programs that share the channels of a group; 1 where ``groups`` is more."""
    group_blocks: int
    """Programs that share the groups."""
    is_whole: bool
    """The groups of all programs exist."""
    spare: int
    """Factor on the windows of a program that has few channels."""
    classes_y: int
    classes_x: int
    """Classes of windows by their row, and by their column."""
    step_y: int
    step_x: int
    """Pixels of a class from window to window, in steps of the dilation."""
    depth: int
    """Pixels, or windows, that one product adds up."""
    windows: int
    """Windows of a row in a product."""
    pixel_chunks: int
    """Products that add up all pixels of these windows by one row of the kernel."""
    pixels: int
    """Pixels of a row in a product of the image's gradient."""
    window_chunks: int
    """Products that add up all windows of these pixels by one row of the kernel."""
    packed: bool
    """Taps, groups and columns of the dynamic kernel follow each other in memory without gaps."""
    interpreted: bool


def is_banded(call: Call) -> bool:
    """Return whether a call runs as banded matrix products.

    It has a dynamic kernel with a weight of its own for each tap, no offsets and no static kernel, whose weights would differ from
    channel to channel of a group; half precision; neighboring channels, in groups of a multiple of sixteen; windows that overlap in a
    row; and at most about 15 by 15 taps.
    """
    if call.aggregation not in ("gather", "similarity") or call.offsets is not None or call.static_kernel is not None:
        return False
    if call.dynamic_kernel is None or call.computed_kernel is not None or call.kernel_shape()[2] != call.geometry.taps:
        return False
    half = call.x.dtype in (torch.bfloat16, torch.float16)
    fitting = channel_groups_of(call).channels % _LEAST_CHANNELS == 0
    height, width = call.geometry.kernel_size
    few = height * _pixel_chunks(call) <= _MOST_PRODUCTS
    return half and fitting and is_channels_last(call.x) and _step(call, 1) < width and few


def band_for(call: Call, dynamic_kernel: WindowValues, *, interpreted: bool) -> Band:
    """Return the sizes of a call's banded products; ``dynamic_kernel``: the record of the one that is read or written."""
    groups = channel_groups_of(call)
    members = min(groups.channels & -groups.channels, _PROGRAM_CHANNELS)
    member_blocks = groups.channels // members
    together = min(_PROGRAM_CHANNELS // members if member_blocks == 1 else 1, _power_of_two_at_least(groups.number))
    (classes_y, classes_x), width = (
        (call.geometry.dilation[a] // _shared(call, a) for a in (0, 1)),
        call.geometry.kernel_size[1],
    )
    step_x = _step(call, 1)
    pixels = min(_PRODUCT_WINDOWS * step_x, 2 * _PRODUCT_WINDOWS)
    pixels = 1 << (pixels.bit_length() - 1)
    taps = call.geometry.taps
    return Band(
        groups=together,
        members=members,
        member_blocks=member_blocks,
        group_blocks=-(-groups.number // together),
        is_whole=groups.number % together == 0,
        spare=_PROGRAM_CHANNELS // (together * members),
        classes_y=classes_y,
        classes_x=classes_x,
        step_y=_step(call, 0),
        step_x=step_x,
        depth=_PIXELS,
        windows=_PRODUCT_WINDOWS,
        pixel_chunks=_pixel_chunks(call),
        pixels=pixels,
        window_chunks=-(-((pixels + width - 2) // step_x + 1) // _PIXELS),
        packed=(dynamic_kernel.tap, dynamic_kernel.group, dynamic_kernel.column) == (1, taps, taps * groups.number),
        interpreted=interpreted,
    )


def _shared(call: Call, axis: int) -> int:
    """Return the greatest common divisor of stride and dilation along an axis."""
    return gcd(call.geometry.stride[axis], call.geometry.dilation[axis])


def _step(call: Call, axis: int) -> int:
    """Return the pixels from window to window of a class, in steps of the dilation."""
    return call.geometry.stride[axis] // _shared(call, axis)


def _pixel_chunks(call: Call) -> int:
    """Return the products that add up the pixels of a product's windows by one row of the kernel."""
    return -(-((_PRODUCT_WINDOWS - 1) * _step(call, 1) + call.geometry.kernel_size[1]) // _PIXELS)


def _power_of_two_at_least(size: int) -> int:
    return 1 << max(size - 1, 0).bit_length()
