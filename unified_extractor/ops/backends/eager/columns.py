"""The formulation for exported programs: a few operations on the columns of all taps, where ``sums.py`` runs one a tap.

An exported graph stays small, differentiates by itself and holds only operators that exporters know.

B batch, C input channels, O output channels, G kernel groups, N = C/G, K taps, I outputs of a window (1; fold: K), Ho, Wo output positions.
"""

import torch.nn.functional as F
from torch import Tensor

from unified_extractor.ops.backends.eager.taps import OffsetTaps, Wanted
from unified_extractor.ops.call import Call
from unified_extractor.ops.geometry import Geometry, canvas_size, cropped, padded, precision
from unified_extractor.ops.tracing import with_plain_strides


def columns(x: Tensor, offsets: Tensor | None, geometry: Geometry) -> Tensor:
    """Return the samples of every tap of every window, ``[B, C, K, Ho, Wo]``."""
    x = with_plain_strides(x)
    if offsets is not None:
        offsets = with_plain_strides(offsets)
        return OffsetTaps(x, offsets, geometry, Wanted(x=False, offsets=False)).columns().to(x.dtype)
    unfolded = F.unfold(padded(x, geometry), geometry.kernel_size, geometry.dilation, 0, geometry.stride)
    return unfolded.reshape(*x.shape[:2], geometry.taps, *geometry.output)


def product(call: Call) -> Tensor:
    """Return the output of a gather or fold that multiplies, without bias."""
    x, static_kernel, geometry = call.x, call.static_kernel, call.geometry
    dynamic_kernel = None if call.stored_kernel is None else with_plain_strides(call.stored_kernel)
    samples = columns(x, call.offsets, geometry).to(precision(x))
    depthwise = static_kernel is None or static_kernel.shape[:2] == (x.shape[1], 1)
    if static_kernel is not None and depthwise:
        samples = samples * static_kernel.flatten(1)[:, :, None, None].to(samples.dtype)
    if call.aggregation == "fold":
        return _folded(_outputs(samples, dynamic_kernel), x, geometry)
    if dynamic_kernel is not None:
        samples = (samples.unflatten(1, (dynamic_kernel.shape[1], -1)) * dynamic_kernel.unsqueeze(2).to(samples.dtype)).flatten(
            1, 2
        )
    if depthwise:
        return samples.sum(2).to(x.dtype)
    assert static_kernel is not None
    weight = static_kernel.flatten(1)[:, :, None, None].to(samples.dtype)
    return F.conv2d(samples.flatten(1, 2), weight, groups=x.shape[1] // static_kernel.shape[1]).to(x.dtype)


def similarity(query: Tensor, key: Tensor, offsets: Tensor | None, heads: int, geometry: Geometry) -> Tensor:
    """Return the products of each query with the keys at its taps, summed over a head's channels, ``[B, G, K, Ho, Wo]``."""
    samples = columns(key, offsets, geometry).to(precision(key))
    return (samples * with_plain_strides(query).unsqueeze(2)).unflatten(1, (heads, -1)).sum(2).to(query.dtype)


def _outputs(samples: Tensor, dynamic_kernel: Tensor | None) -> Tensor:
    """Return the I outputs of every window before they are added up, ``[B, C, I, Ho, Wo]``."""
    if dynamic_kernel is None:
        return samples.sum(2, keepdim=True).expand_as(samples)
    weighted = samples.unflatten(1, (dynamic_kernel.shape[1], -1)).unsqueeze(3) * dynamic_kernel.unsqueeze(2).to(samples.dtype)
    return weighted.sum(4).flatten(1, 2)


def _folded(outputs: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
    """Return the sum of output i of every window at the pixel of its tap i, ``[B, C, H, W]``."""
    flat = outputs.flatten(1, 2).flatten(2)
    y = F.fold(flat, canvas_size(geometry), geometry.kernel_size, geometry.dilation, 0, geometry.stride)
    return cropped(y, geometry).to(x.dtype)
