"""A dynamic kernel of distances: how far the value at each tap is from the value at the window's center.

B batch, R channels of the feature, G heads, K taps, H, W image, Ho, Wo output positions.
"""

import torch
from torch import Tensor

from unified_extractor.ops.autocast import full_precision
from unified_extractor.ops.checks import Ints
from unified_extractor.ops.functional import similarity
from unified_extractor.ops.geometry import at_centers, precision


def gaussian_exponents(
    feature: Tensor, kernel_size: Ints, *, heads: int, offsets: Tensor | None, stride: tuple[int, int], dilation: Ints
) -> Tensor:
    """Return minus half the squared distance between the center of every window and its taps, summed over the channels of a head.

    It is computed as products, ``f_i . f_j - |f_j|^2 / 2 - |f_i|^2 / 2``, so that no difference of every channel and tap is stored. The
    products of large values have no digits left for small distances in float32: they are float64 where the device has it. The distance
    does not change when a constant is subtracted from all values; the mean is. A tap outside the image, where the operator samples zero
    anyway, has the value of no distance.

    Args:
        feature: image whose values are compared, ``[B, R, H, W]``.
        kernel_size: taps of the window, an int or (y, x); padding is "same".
        heads: G, contiguous channel groups that each have distances of their own.
        offsets: whole numbers of pixels ``[B, 1, K, 2, Ho, Wo]`` added to the regular grid, or None.
        stride: pixels between windows, (y, x).
        dilation: pixels between taps, an int or (y, x).

    Returns:
        ``[B, G, K, Ho, Wo]`` in at least float32.
    Source: Su et al., Pixel-Adaptive Convolutional Neural Networks (CVPR 2019).
    """
    with full_precision(feature):
        wide, dtype = feature.to(precision(feature)), torch.float32 if feature.device.type == "mps" else torch.float64
        mean = wide.detach().to(dtype).mean((2, 3), keepdim=True)
        key, query = ((f.to(dtype) - mean).unflatten(1, (heads, -1)) for f in (wide, at_centers(wide, stride)))
        key_halves, query_halves = (f.square().sum(2, keepdim=True) / 2 for f in (key, query))  # [B, G, 1, H or Ho, W or Wo]
        keys = torch.cat([key, -key_halves], 2).flatten(1, 2)
        queries = torch.cat([query, torch.ones_like(query_halves)], 2).flatten(1, 2)
        places = None if offsets is None else offsets.to(dtype)
        products = similarity(queries, keys, kernel_size, heads=heads, offsets=places, stride=stride, dilation=dilation)
        exponents = products - query_halves
        exponents = exponents - exponents.detach().clamp(min=0)  # no distance is negative, the rounding of large products may be
        return exponents.to(wide.dtype)
