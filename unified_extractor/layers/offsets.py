"""Offsets with parameters: generated from the input, or learned as they are. F offset groups, K taps, h, w the positions of the feature."""

import math

import torch
from torch import Tensor, nn

from unified_extractor.layers.generators import Feature, head, offset_channels, with_zero_center
from unified_extractor.ops.geometry import Geometry
from unified_extractor.ops.offsets import bounded, from_center, inside_image, scaled_offsets, sub_pixel_offsets
from unified_extractor.ops.tracing import with_plain_strides
from unified_extractor.ops.upsampling import fine_values
from unified_extractor.spec import ExtractorSpec, as_pair


class LearnedOffsets(nn.Module):
    """Offsets of the sampling points: a linear function of the generator's feature, the same everywhere at the start of training."""

    def __init__(self, feature: Feature, groups: int, spec: ExtractorSpec, stride: tuple[int, int]) -> None:
        super().__init__()
        self._spec, self.shape = spec, (groups, *_shape(spec))
        channels = offset_channels(spec, groups)
        self.head = head(feature, channels, spec, stride, initial=0.0)
        self.gate = head(feature, channels, spec, stride, initial=0.0, bias=False) if spec.offsets.gated else None
        if spec.offsets.origin == "center":
            assert self.head.bias is not None
            outputs = self.head.bias.data.view(*self.shape, -1)  # of a pixel
            outputs.copy_(_directions(groups, self.shape[1])[..., None])

    def forward(self, feature: Tensor, geometry: Geometry) -> Tensor:
        """Return offsets ``[B, F, K, 2, h, w]``, (y, x) in pixels, of a feature ``[B, hidden, h, w]``; upsampled, at the fine grid."""
        values = self.head(feature) if self.gate is None else self.head(feature) * self.gate(feature).sigmoid()
        offsets = fine_values(with_plain_strides(values), self._spec.sub_positions).unflatten(1, self.shape)
        places = None if geometry.upsample == (1, 1) else sub_pixel_offsets(geometry, offsets)
        return _from_grid(offsets, self._spec, geometry, places)


class ParameterOffsets(nn.Module):
    """Offsets of the sampling points that are parameters, the same at every position of every image."""

    def __init__(self, groups: int, spec: ExtractorSpec) -> None:
        super().__init__()
        self._spec = spec
        self.points = nn.Parameter(torch.zeros(groups, *_shape(spec)))
        if spec.offsets.origin == "center":
            nn.init.normal_(self.points, std=0.5)  # as published

    def forward(self, geometry: Geometry) -> Tensor:
        """Return offsets ``[1, F, K, 2, 1, 1]``, (y, x) in pixels; clamped to the image ``[1, F, K, 2, Ho, Wo]``."""
        return _from_grid(self.points[None, ..., None, None], self._spec, geometry)


def reach_of_taps(spec: ExtractorSpec) -> tuple[int, int] | None:
    """Return the largest distance of a tap from the window's pixel, (y, x), or None.

    It is that of a depthwise convolution whose taps lie between pixels, at bounded places that are parameters.
    """
    own = spec.offsets
    plain = spec.static_kernel.channels != "dense" and spec.dynamic_kernel.source == "none" and spec.aggregation == "gather"
    if own.kind != "parameter" or own.reach is None or not plain or not spec.keeps_size or min(as_pair(own.reach)) == 0:
        return None
    grid = [dilation * (taps // 2) for dilation, taps in zip(as_pair(spec.dilation), as_pair(spec.kernel_size), strict=True)]
    (rows, columns), (y, x) = (grid if own.origin == "grid" else (0, 0)), as_pair(own.reach)
    return rows + y, columns + x


def _shape(spec: ExtractorSpec) -> tuple[int, int]:
    """Return the number of taps that have offsets, and of the axes."""
    return spec.taps - spec.dynamic_kernel.remove_center, 2


def _directions(groups: int, taps: int) -> Tensor:
    """Return offsets ``[F, K, 2]`` at which the taps of a group lie in a row, one after the other around the window's center.

    Source: the released code of Zhu et al., Deformable DETR (ICLR 2021).
    """
    angles = 2 * math.pi / groups * torch.arange(groups)
    directions = torch.stack([angles.sin(), angles.cos()], -1)
    directions = directions / directions.abs().amax(-1, keepdim=True)
    return directions[:, None] * torch.arange(1, taps + 1)[:, None]


def _from_grid(offsets: Tensor, spec: ExtractorSpec, geometry: Geometry, places: Tensor | None = None) -> Tensor:
    """Return offsets as the operator takes them, from the regular grid, of values ``[B, F, K, 2, h, w]`` of a spec's taps.

    Args:
        offsets: values that are learned; of a spec without the central tap K - 1 of them.
        spec: spec of the extractor.
        geometry: sizes of the call.
        places: place of every window in the pixel at which it sits; None: its center.
    """
    own = spec.offsets
    if own.bound in ("clamp", "tanh"):
        assert own.reach is not None
        offsets = bounded(offsets, own.bound, as_pair(own.reach))
    if spec.dynamic_kernel.remove_center:
        offsets = with_zero_center(offsets, spec.taps, 2)
    from_grid = scaled_offsets if own.origin == "grid" else from_center
    offsets = from_grid(offsets, own.scale, geometry)
    if places is not None:
        offsets = offsets + places
    return inside_image(offsets, geometry) if own.bound == "image" else offsets
