"""Operations on the aggregated map. B batch, C channels, O output channels, G groups, M terms, H, W image, Ho, Wo output positions."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from unified_extractor.ops.geometry import Geometry

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda values: values,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "gelu": F.gelu,
}


def overlap_normalized(y: Tensor, geometry: Geometry) -> Tensor:
    """Divide a fold by the number of windows that cover each pixel; a pixel that none covers keeps its zero.

    Args:
        y: the fold's output ``[B, C, H, W]``.
        geometry: the sizes of the fold.
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
        x: the map that was sampled, ``[B, C, H, W]``, its windows centered on every stride-th pixel.
        gate: logits ``[B, G, Ho or 1, Wo or 1]``.
        geometry: the sizes of the gather.
    Source: DCNv3's ``center_feature_scale`` (Wang et al., InternImage, CVPR 2023).
    """
    rows, columns = geometry.stride
    center = x[:, :, ::rows, ::columns].unflatten(1, (gate.shape[1], -1))
    share = torch.sigmoid(gate).unsqueeze(2)
    return ((1 - share) * y.unflatten(1, (gate.shape[1], -1)) + share * center).flatten(1, 2)


def mixed_bias(dynamic_kernel: Tensor, bias: Tensor) -> Tensor:
    """Return the constant ``sum_m bias[m, o] * D_m`` of every output channel, ``[B, O, Ho or 1, Wo or 1]``.

    Args:
        dynamic_kernel: one value a term for all taps, ``[B, M, G, 1, Ho or 1, Wo or 1]``.
        bias: ``[M, O]``, the outputs of a group neighbors.
    Source: Yang et al., CondConv (NeurIPS 2019).
    """
    by_group = bias.unflatten(1, (dynamic_kernel.shape[2], -1))
    return torch.einsum("bmghw,mgo->bgohw", dynamic_kernel.squeeze(3), by_group.to(dynamic_kernel.dtype)).flatten(1, 2)


def modulated(y: Tensor, values: Tensor, activation: str) -> Tensor:
    """Return ``y * act(values)``, both ``[B, O, Ho, Wo]``; the activation is "identity", "sigmoid", "silu" or "gelu".

    Source: Rao et al., HorNet (NeurIPS 2022); Yu and Wang, MambaOut (CVPR 2025).
    """
    return y * _ACTIVATIONS[activation](values)
