"""The formulation for exported programs: a few operations on the columns of all taps, where eager runs one a tap.

An exported graph stays small, differentiates by itself and holds only operators that exporters know.

B batch, C input channels, O output channels, G kernel groups, N = C/G, K taps, I outputs of a window (1; fold: K), Ho, Wo output positions.
"""

import torch.nn.functional as F
from torch import Tensor

from unified_extractor.ops.backends.eager.taps import MovedTaps, Wanted
from unified_extractor.ops.geometry import Geometry, canvas_size, cropped, padded, precision


def columns(x: Tensor, offsets: Tensor | None, geometry: Geometry) -> Tensor:
    """``[B, C, K, Ho, Wo]``: what every tap of every window reads."""
    if offsets is not None:
        return MovedTaps(x, offsets, geometry, Wanted(x=False, offsets=False)).columns().to(x.dtype)
    unfolded = F.unfold(padded(x, geometry), geometry.kernel_size, geometry.dilation, 0, geometry.stride)
    return unfolded.reshape(*x.shape[:2], geometry.taps, *geometry.output)


def product(
    x: Tensor, static: Tensor | None, dynamic: Tensor | None, offsets: Tensor | None, geometry: Geometry, aggregation: str
) -> Tensor:
    """The operator with ``combine="multiply"``, without bias."""
    read = columns(x, offsets, geometry).to(precision(x))
    alone = static is None or static.shape[:2] == (x.shape[1], 1)
    if static is not None and alone:
        read = read * static.flatten(1)[:, :, None, None].to(read.dtype)
    if aggregation == "fold":
        return _folded(_outputs(read, dynamic), x, geometry)
    if dynamic is not None:
        read = (read.unflatten(1, (dynamic.shape[1], -1)) * dynamic.unsqueeze(2).to(read.dtype)).flatten(1, 2)
    if alone:
        return read.sum(2).to(x.dtype)
    assert static is not None
    mixing = static.flatten(1)[:, :, None, None].to(read.dtype)
    return F.conv2d(read.flatten(1, 2), mixing, groups=x.shape[1] // static.shape[1]).to(x.dtype)


def similarity(query: Tensor, key: Tensor, offsets: Tensor | None, heads: int, geometry: Geometry) -> Tensor:
    """``[B, G, K, Ho, Wo]``: a query's products with the keys at its taps, summed over a head's channels."""
    read = columns(key, offsets, geometry).to(precision(key))
    return (read * query.unsqueeze(2)).unflatten(1, (heads, -1)).sum(2).to(query.dtype)


def _outputs(read: Tensor, dynamic: Tensor | None) -> Tensor:
    """``[B, C, I, Ho, Wo]``: the K outputs of every window before they are added up."""
    if dynamic is None:
        return read.sum(2, keepdim=True).expand_as(read)
    weighed = read.unflatten(1, (dynamic.shape[1], -1)).unsqueeze(3) * dynamic.unsqueeze(2).to(read.dtype)
    return weighed.sum(4).flatten(1, 2)


def _folded(outputs: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
    """Output i of every window added where its tap i lies, ``[B, C, H, W]``."""
    flat = outputs.flatten(1, 2).flatten(2)
    y = F.fold(flat, canvas_size(geometry), geometry.kernel_size, geometry.dilation, 0, geometry.stride)
    return cropped(y, geometry).to(x.dtype)
