"""The multiply-adds of the operator, counted by formula: the same whatever backend or shortcut runs. All counts are of one image."""

from unified_extractor.ops.geometry import Geometry

SAMPLE = 4
"""Multiply-adds of one bilinear sample, one for each corner."""


def multiply_adds(
    geometry: Geometry, channels: int, *, static_outputs: int = 0, results: int = 0, has_offsets: bool = False
) -> int:
    """Return the multiply-adds of the operator: a fixed number for each tap of each window and each channel.

    Query-key products cost as much as a gather of the keys, ``results=1``.

    Args:
        geometry: the sizes of the call.
        channels: C, the channels of the image.
        static_outputs: output channels that one channel reaches through the static kernel: O/groups, 1 if it is depthwise, 0 if
            there is none.
        results: products with the dynamic kernel: 1 for a gather, K for a fold, 0 if there is none.
        has_offsets: the taps are bilinear samples at learned offsets.
    """
    return _values(geometry, channels) * (static_outputs + results + SAMPLE * has_offsets)


def backward_multiply_adds(
    geometry: Geometry, channels: int, *, static_outputs: int = 0, results: int = 0, has_offsets: bool = False
) -> int:
    """Return the multiply-adds of all gradients of the operator; the arguments are those of :func:`multiply_adds`.

    Each product of the forward pass has two gradients. Each bilinear sample is computed again, has a gradient by its two
    coordinates, and spreads its own gradient over four corners.
    """
    return _values(geometry, channels) * (2 * static_outputs + 2 * results + 3 * SAMPLE * has_offsets)


def linear_map_multiply_adds(geometry: Geometry, rows: int, columns: int) -> int:
    """Return the multiply-adds of a linear map ``[rows, columns]`` that generates the dynamic kernel at each output position."""
    return rows * columns * geometry.output[0] * geometry.output[1]


def _values(geometry: Geometry, channels: int) -> int:
    """Return the number of values that the taps of all windows read."""
    return channels * geometry.taps * geometry.output[0] * geometry.output[1]
