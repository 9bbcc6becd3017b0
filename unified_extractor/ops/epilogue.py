"""Operations on the aggregated map. B batch, C channels, G groups, H, W image, Ho, Wo output positions."""

import torch
from torch import Tensor

from unified_extractor.ops.geometry import Geometry


def overlap_normalized(y: Tensor, geometry: Geometry) -> Tensor:
    """Divide a fold by the number of windows that cover each pixel; a pixel that none covers keeps its zero.

    Args:
        y: the fold's output ``[B, C, H, W]``.
        window: its geometry.
    """
    counts = []
    for axis in (0, 1):
        before, size, after = geometry.padding[axis], geometry.image[axis], geometry.padding_after[axis]
        count = y.new_zeros(before + size + after)
        for tap in range(geometry.kernel_size[axis]):
            count[geometry.axis_slice(axis, tap)] += 1
        counts.append(count[before : before + size])
    return y / torch.outer(*counts).clamp(min=1)


def center_blended(y: Tensor, x: Tensor, gate: Tensor, geometry: Geometry) -> Tensor:
    """Return ``(1 - s)*y + s*x`` with x at the windows' centers and ``s = sigmoid(gate)``, one a group.

    Args:
        y: the gather's output ``[B, C, Ho, Wo]``.
        x: what the operator read, ``[B, C, H, W]``, its windows centered on every stride-th pixel.
        gate: logits ``[B, G, Ho or 1, Wo or 1]``.
        window: the operator's geometry.
    Source: DCNv3's ``center_feature_scale`` (Wang et al., InternImage, CVPR 2023).
    """
    rows, columns = geometry.stride
    centre = x[:, :, ::rows, ::columns].unflatten(1, (gate.shape[1], -1))
    share = torch.sigmoid(gate).unsqueeze(2)
    return ((1 - share) * y.unflatten(1, (gate.shape[1], -1)) + share * centre).flatten(1, 2)
