"""The multiply-adds of the operator, counted by formula: the same whatever backend or shortcut runs. All counts are of one image."""

from typing import Any

from unified_extractor.ops.call import Call
from unified_extractor.ops.dynamic_kernels import AttentionKernel, ComputedKernel
from unified_extractor.ops.geometry import Geometry

SAMPLE = 4
"""Multiply-adds of one bilinear sample, one for each corner."""


def multiply_adds(
    geometry: Geometry,
    channels: int,
    *,
    static_outputs: int = 0,
    results: int = 0,
    has_offsets: bool = False,
    gates: int = 0,
    terms: int = 1,
    of_image: bool = False,
    channel_kernel: bool = False,
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
        gates: output channels that a dynamic kernel of one value a window multiplies.
        terms: M, products of a static and a dynamic kernel that are summed.
        of_image: several terms have one dynamic kernel for all windows, so that their kernels are summed once an image.
        channel_kernel: the dynamic kernel is multiplied by one for each channel and image.
    """
    if of_image and terms > 1:
        mixing = terms * channels * static_outputs * geometry.taps
        return _values(geometry, channels) * (static_outputs + SAMPLE * has_offsets + channel_kernel) + mixing
    per_value = terms * (static_outputs + results) + SAMPLE * has_offsets + channel_kernel
    return _values(geometry, channels) * per_value + terms * gates * geometry.positions


def backward_multiply_adds(geometry: Geometry, channels: int, *, has_offsets: bool = False, **products: Any) -> int:
    """Return the multiply-adds of all gradients of the operator; the arguments are those of :func:`multiply_adds`.

    Each product of the forward pass has two gradients. Each bilinear sample is computed again, has a gradient by its two
    coordinates, and spreads its own gradient over four corners.
    """
    samples = _values(geometry, channels) * 3 * SAMPLE * has_offsets
    return 2 * multiply_adds(geometry, channels, **products) + samples


def linear_kernel_multiply_adds(geometry: Geometry, rows: int, columns: int) -> int:
    """Return the multiply-adds of a linear map ``[rows, columns]`` that generates the dynamic kernel at each output position."""
    return rows * columns * geometry.positions


def attention_kernel_multiply_adds(geometry: Geometry, channels: int) -> int:
    """Return the multiply-adds of the products of each query with the keys at its taps; both have this many channels in all heads."""
    return multiply_adds(geometry, channels, results=1)


def kernel_multiply_adds(kernel: ComputedKernel, geometry: Geometry) -> int:
    """Return the multiply-adds that compute a dynamic kernel at all positions."""
    if isinstance(kernel, AttentionKernel):
        return attention_kernel_multiply_adds(geometry, kernel.key.shape[1])
    return linear_kernel_multiply_adds(geometry, *kernel.weight.shape)


def use_multiply_adds(call: Call) -> int:
    """Return the multiply-adds in which a call uses its dynamic kernel, a dense static kernel included."""
    return _values(call.geometry, call.channels) * call.results_per_window * call.outputs_per_channel


def pass_multiply_adds(call: Call) -> tuple[int, int]:
    """Return the multiply-adds of the forward and of the backward pass of a call with its whole batch, and with all its gradients.

    A computed kernel is computed again in backward, and has two gradients.
    """
    terms: dict[str, Any] = {
        "static_outputs": 0 if call.static_kernel is None else call.outputs_per_channel,
        "results": 0 if call.dynamic_kernel is None or call.has_gate else call.results_per_window,
        "has_offsets": call.offsets is not None,
        "gates": call.output_shape()[1] if call.has_gate else 0,
        "terms": max(call.terms, 1),
        "of_image": call.terms > 0 and call.kernel_shape()[-2:] == [1, 1],
        "channel_kernel": call.channel_kernel is not None,
    }
    kernel = 0 if call.computed_kernel is None else kernel_multiply_adds(call.computed_kernel, call.geometry)
    forward = multiply_adds(call.geometry, call.channels, **terms) + kernel
    backward = backward_multiply_adds(call.geometry, call.channels, **terms) + 3 * kernel
    return call.x.shape[0] * forward, call.x.shape[0] * backward


def work_in_registers(call: Call) -> int:
    """Return how much there is to do for what is loaded into registers at once, which decides whether a fast backend pays.

    These are the multiply-adds at one position for at most 16 channels that share a kernel; a bilinear sample counts a hundredfold.
    """
    has_own_kernels = call.channel_kernel is not None and call.has_kernel_of_image
    shared = 1 if has_own_kernels else call.channels // call.kernel_groups
    if call.has_dense_kernel and call.static_kernel is not None:
        shared = min(shared, call.static_kernel.shape[-3])
    return (
        max(call.terms, 1) * call.results_per_window * call.geometry.taps * min(shared, 16) * (1 if call.offsets is None else 100)
    )


def _values(geometry: Geometry, channels: int) -> int:
    """Return the number of values that the taps of all windows sample."""
    return channels * geometry.taps * geometry.positions
