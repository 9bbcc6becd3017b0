"""What stride means for an extractor inside a network."""

from torch import nn

from unified_extractor.layers.extractor import UnifiedExtractor2d
from unified_extractor.spec import ExtractorSpec


def strided_extractor(in_channels: int, out_channels: int, spec: ExtractorSpec, stride: int) -> nn.Module:
    """An extractor after which height and width are ``ceil(size / stride)``, whatever the spec.

    A gather shrinks the map itself. A fold keeps it: its windows take the stride, an average over ``stride x stride`` pixels follows.

    Args:
        in_channels: C.
        out_channels: O.
        spec: which extractor.
        stride: by how much to shrink.

    Shape:
        ``[B, C, H, W]`` to ``[B, O, ceil(H/stride), ceil(W/stride)]``, for a spec with padding "same".
    """
    extractor = UnifiedExtractor2d(in_channels, out_channels, spec, stride)
    if extractor.downsampling == stride:
        return extractor
    return nn.Sequential(extractor, nn.AvgPool2d(stride, ceil_mode=True))
