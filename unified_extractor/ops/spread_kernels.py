"""Kernels whose taps lie between pixels, at places that no image changes, spread over the pixels around: one convolution.

C channels, F offset groups, K taps, kh, kw pixels of the spread kernel.
"""

import torch
from torch import Tensor

from unified_extractor.ops.geometry import Geometry
from unified_extractor.ops.offsets import tap_positions
from unified_extractor.ops.tracing import is_recorded

_MOST_PIXELS = 20
"""Pixels of the spread kernel for each tap, up to which its convolution is faster than bilinear samples.

Measured once, by no committed benchmark, on a CPU with depthwise kernels of 64 channels on 28x28 pixels, forward and backward: 34 taps in
17x17 pixels (8.5 for each) take 1.0 times the time of a 17x17 convolution instead of 2.6; 16 taps (18) 0.8 times that of samples, 8 taps
(36) 1.5 times.
"""


def spreading_pays(x: Tensor, taps: int, reach: tuple[int, int]) -> bool:
    """Return whether one convolution is better: on a CPU if it is not much larger, and in a recorded program, which is then plain."""
    pixels = (2 * reach[0] + 1) * (2 * reach[1] + 1)
    return (x.device.type == "cpu" or is_recorded()) and pixels <= _MOST_PIXELS * taps


def spread_kernel(
    static_kernel: Tensor | None, offsets: Tensor, geometry: Geometry, reach: tuple[int, int], channels: int
) -> Tensor:
    """Return the depthwise kernel that gives what bilinear samples, times a static kernel, give: ``[C, 1, kh, kw]``.

    A sample is a weighted sum of four pixels, whose weights are those of the same pixels in the kernel. Where a tap lies on a pixel, the
    derivative by its place is that of the samples, but at the outermost pixel, where it is that of the other side.

    Each axis has its weights by itself, where :func:`unified_extractor.ops.offsets.bilinear_corners` has their products at four pixels:
    the kernel is a sum of outer products. And the last cell takes in the outermost pixel, beyond which there is none.

    Args:
        static_kernel: ``[C, 1, taps]`` in any shape of the taps; None: ones.
        offsets: ``[1, F, K, 2, 1, 1]``, (y, x) in pixels from the regular grid.
        geometry: the sizes of the call.
        reach: largest distance of a tap from the window's pixel, (y, x), at least 1; the kernel has ``2*reach + 1`` pixels.
        channels: C.
    Source: Khalfaoui-Hassani et al., Dilated Convolution with Learnable Spacings (ICLR 2023), section 2.
    """
    shares = []
    for axis, position in enumerate(tap_positions(geometry.first_window, offsets, offsets.device)):
        place = position[0, :, :, 0, 0]
        pixel = torch.arange(-reach[axis], reach[axis] + 1, device=place.device)
        before = place.detach().floor().clamp(max=reach[axis] - 1)[..., None]
        after = place[..., None] - before
        shares.append((1 - after).where(pixel == before, after.where(pixel == before + 1, 0)))  # [F, K, kh or kw]
    groups, taps, _ = shares[0].shape
    weights = shares[0].new_ones(channels, taps) if static_kernel is None else static_kernel.to(shares[0].dtype)
    spread = torch.einsum("fck,fky,fkx->fcyx", weights.reshape(groups, -1, taps), *shares).flatten(0, 1).unsqueeze(1)
    return spread.to(offsets.dtype if static_kernel is None else static_kernel.dtype).contiguous()
