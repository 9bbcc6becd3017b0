"""The rule that says which folds are composed banded products, and the compile-time sizes of those.

A fold's window p takes pixels by its source taps and gives to pixels by its output taps: ``y[n, u] += D[i, k, p] * x[n, v]`` where tap i of
window p lies at u, and tap k at v. Both maps together are one band: for a row i of output taps and a row k of source taps it is a matrix
product for 8 neighboring pixels u, 16 pixels v and the N channels of a group, ``y[n, u] += sum_v x[n, v] * w[v, u]`` with
``w[v, u] = sum_p D[i, k, p]`` over the windows that cover both pixels. A window lies at every ``stride``-th pixel.
"""

from typing import NamedTuple

import torch

from unified_extractor.ops.backends.triton.plan import channel_groups_of, is_channels_last
from unified_extractor.ops.backends.triton.records import WindowValues
from unified_extractor.ops.call import Call

_GROUP_CHANNELS = (16, 32, 64)
"""Channels of a group that a program has as a whole."""
_PROGRAM_CHANNELS = 64
"""Channels of a program, where there are as many: 128 bytes, a line of the cache."""
DEPTH = 16
"""Pixels that one product adds up: the depth of a product in the matrix units."""
OUTPUTS = 8
"""Pixels of a row that one product writes."""
_MOST_LOADS = 32
"""Most loads of weights for a window. A kernel's code has each of them apart."""


class FoldBand(NamedTuple):
    """Compile-time sizes of a fold's composed products; on their way into a kernel each becomes a ``constexpr``."""

    groups: int
    """Groups of a program, a power of two."""
    members: int
    """Channels of a group."""
    group_blocks: int
    """Programs that share the groups."""
    is_whole: bool
    """The groups of all programs exist."""
    spare: int
    """Factor on the pixels of a program that has few channels."""
    shared_y: int
    shared_x: int
    """Most windows that cover a pixel, along each axis."""
    depth: int
    outputs: int
    windows: int
    """Windows of a row whose pixels one product of the kernel's gradient has."""
    packed: bool
    """Taps, groups and columns of the dynamic kernel follow each other in memory without gaps."""
    interpreted: bool


def is_banded_fold(call: Call) -> bool:
    """Return whether a call runs as a fold of composed banded products.

    It has a dynamic kernel, no offsets, no dilation and no static kernel; half precision; 16, 32 or 64 neighboring channels in a group;
    windows that overlap in a row; and windows of at most about 4 by 4 taps, whose pixels are as many as one product adds up.
    """
    if call.aggregation != "fold" or call.offsets is not None or call.static_kernel is not None or call.stored_kernel is None:
        return False
    half = call.x.dtype in (torch.bfloat16, torch.float16)
    fitting = channel_groups_of(call).channels in _GROUP_CHANNELS and is_channels_last(call.x)
    (height, width), stride, shared = call.geometry.kernel_size, call.geometry.stride[1], _shared(call, 1)
    overlap = call.geometry.dilation == (1, 1) and stride < width and OUTPUTS % stride == 0
    return half and fitting and overlap and _sources(call) <= DEPTH and height**2 * shared <= _MOST_LOADS


def fold_band_for(call: Call, dynamic_kernel: WindowValues, *, interpreted: bool) -> FoldBand:
    """Return the sizes of a fold's composed products; ``dynamic_kernel``: the record of the one that is read or written."""
    groups, taps = channel_groups_of(call), call.geometry.taps
    together = min(_PROGRAM_CHANNELS // groups.channels, 1 << max(groups.number - 1, 0).bit_length())
    places = (dynamic_kernel.tap, dynamic_kernel.component, dynamic_kernel.group, dynamic_kernel.column)
    return FoldBand(
        groups=together,
        members=groups.channels,
        group_blocks=-(-groups.number // together),
        is_whole=groups.number % together == 0,
        spare=_PROGRAM_CHANNELS // (together * groups.channels),
        shared_y=_shared(call, 0),
        shared_x=_shared(call, 1),
        depth=DEPTH,
        outputs=OUTPUTS,
        windows=(DEPTH - call.geometry.kernel_size[1]) // call.geometry.stride[1] + 1,
        packed=places == (1, taps, taps**2, taps**2 * groups.number),
        interpreted=interpreted,
    )


def _shared(call: Call, axis: int) -> int:
    """Return the most windows that cover a pixel along an axis."""
    return -(-call.geometry.kernel_size[axis] // call.geometry.stride[axis])


def _sources(call: Call) -> int:
    """Return the pixels of a row that the windows of a product's outputs sample."""
    return OUTPUTS + call.geometry.stride[1] * (_shared(call, 1) - 2) + call.geometry.kernel_size[1]
