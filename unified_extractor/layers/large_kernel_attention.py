"""Large kernel attention: two windows in a row, which is a module of two extractors and no spec of one."""

import torch.nn.functional as F
from torch import Tensor, nn

from unified_extractor.layers.extractor import UnifiedExtractor2d
from unified_extractor.names import suggesting_arguments
from unified_extractor.spec import ExtractorSpec, Projection, StaticKernel

_NEAR = ExtractorSpec(kernel_size=5, static_kernel=StaticKernel(channels="depthwise"), bias=True)
_FAR = ExtractorSpec(
    kernel_size=7,
    dilation=3,
    static_kernel=StaticKernel(channels="depthwise"),
    bias=True,
    projection=Projection(output="affine"),
)


class LargeKernelAttention(nn.Module):
    """The image times a gate that a depthwise 5x5, a dilated depthwise 7x7 and a 1x1 convolution make of it (VAN).

    The two windows do not merge into one: the zero border applies to the first one's output, bias included, before the second reads it.

    Args:
        channels: C.
        projected: put it between 1x1 convolutions, the first with a GELU, and add the input.

    Shape:
        ``[B, C, H, W]`` to the same.
    Source: Guo et al., Visual Attention Network (2022).
    """

    @suggesting_arguments
    def __init__(self, channels: int, *, projected: bool = False) -> None:
        super().__init__()
        self.projected = projected
        if projected:
            self.value = nn.Conv2d(channels, channels, 1)
        self.near = UnifiedExtractor2d(channels, channels, _NEAR)
        self.far = UnifiedExtractor2d(channels, channels, _FAR)
        if projected:
            self.projection = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return an image of the input's shape ``[B, C, H, W]``."""
        value = F.gelu(self.value(x)) if self.projected else x
        y: Tensor = value * self.far(self.near(value))
        return self.projection(y) + x if self.projected else y
