"""Learned offsets. F offset groups, K taps, h, w the positions of the feature."""

from torch import Tensor, nn

from unified_extractor.layers.generators import Feature, head, offset_channels, with_zero_center
from unified_extractor.ops.geometry import Geometry
from unified_extractor.ops.offsets import inside_image, scaled_offsets, sub_pixel_offsets
from unified_extractor.ops.tracing import with_plain_strides
from unified_extractor.ops.upsampling import fine_values
from unified_extractor.spec import ExtractorSpec


class LearnedOffsets(nn.Module):
    """Offsets of the sampling points: a linear function of the generator's feature, zero at the start of training."""

    def __init__(self, feature: Feature, spec: ExtractorSpec, stride: tuple[int, int]) -> None:
        super().__init__()
        self.taps, self.scale = spec.taps, spec.offsets.scale
        self.remove_center = spec.dynamic_kernel.remove_center
        self.shape, self.sub_positions = (spec.offsets.groups, spec.taps - self.remove_center, 2), spec.sub_positions
        self.head = head(feature, offset_channels(spec), spec, stride, initial=0.0)
        self.gate = head(feature, offset_channels(spec), spec, stride, initial=0.0, bias=False) if spec.offsets.gated else None
        self.bound = spec.offsets.bound

    def forward(self, feature: Tensor, geometry: Geometry) -> Tensor:
        """Return offsets ``[B, F, K, 2, h, w]``, (y, x) in pixels, of a feature ``[B, hidden, h, w]``; upsampled, at the fine grid."""
        values = self.head(feature) if self.gate is None else self.head(feature) * self.gate(feature).sigmoid()
        offsets = fine_values(with_plain_strides(values), self.sub_positions).unflatten(1, self.shape)
        if self.remove_center:
            offsets = with_zero_center(offsets, self.taps, 2)
        offsets = scaled_offsets(offsets, self.scale, geometry)
        if geometry.upsample != (1, 1):
            offsets = offsets + sub_pixel_offsets(geometry, offsets)
        return inside_image(offsets, geometry) if self.bound == "image" else offsets
