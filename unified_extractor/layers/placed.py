"""An extractor as a network needs it: with a map of the size that follows from the stride, also for maps smaller than a window."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unified_extractor.layers.blocks import AveragePool
from unified_extractor.layers.extractor import UnifiedExtractor2d
from unified_extractor.layers.leaves import traced_as_leaf
from unified_extractor.ops.tracing import is_recorded
from unified_extractor.spec import ExtractorSpec, Pair, as_pair


class RoomForWindows(nn.Module):
    """An extractor whose windows lie inside the image: a smaller map is padded with zeros to the window's size, then cropped back.

    Source: the released code of Hassani et al., Neighborhood Attention Transformer (CVPR 2023).
    """

    def __init__(self, extractor: UnifiedExtractor2d) -> None:
        super().__init__()
        self.extractor = extractor
        spec = extractor.spec
        kernel_size, dilation = as_pair(spec.kernel_size), as_pair(spec.dilation)
        self.least = (kernel_size[0] * dilation[0], kernel_size[1] * dilation[1])

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        """Return what the extractor gives for ``[B, C, H, W]``, and a guide of the same size."""
        if (node := traced_as_leaf(self, x, guide)) is not None:
            return node
        size = x.shape[2:]
        below, right = (torch.sym_max(window, extent) - extent for window, extent in zip(self.least, size, strict=True))
        if not is_recorded() and not below and not right:  # a recorded program has both for all sizes
            return self.extractor(x, guide)
        down = as_pair(self.extractor.downsampling)
        height, width = ((extent - 1) // step + 1 for extent, step in zip(size, down, strict=True))
        if guide is not None:
            guide = F.pad(self.extractor.source(x, guide), (0, right, 0, below))  # type: ignore[arg-type]
        y = self.extractor(F.pad(x, (0, right, 0, below)), guide)  # type: ignore[arg-type]
        if not is_recorded():
            return y[:, :, :height, :width]
        for axis, extent in ((2, height), (3, width)):  # a slice would be guarded by a rule that no exporter proves
            y = y.index_select(axis, torch.arange(extent, device=y.device))
        return y


class PooledExtractor(nn.Sequential):
    """An extractor and an average behind it."""

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        """Return the average of what the extractor gives for ``[B, C, H, W]`` and a guide."""
        extractor, pool = self
        pooled: Tensor = pool(extractor(x, guide))
        return pooled


def check_no_upsampling(spec: ExtractorSpec) -> None:
    """Raise ``ValueError`` for a spec that upsamples the map."""
    if as_pair(spec.upsample) == (1, 1):
        return
    if spec.generator.guide == "output":
        raise ValueError(
            "generator.guide='output' and spec.upsample are of a layer that is given a guide and makes a finer map, not of the place of a "
            f"convolution: take UnifiedExtractor2d, got upsample={spec.upsample}"
        )
    raise ValueError(
        f"spec.upsample must be 1 in the place of a convolution, whose stride shrinks the map, got upsample={spec.upsample}: "
        "UnifiedExtractor2d makes it finer"
    )


def check_keeps_size(spec: ExtractorSpec) -> None:
    """Raise ``ValueError`` for a padding that changes the size of the map, or a spec that upsamples it."""
    check_no_upsampling(spec)
    if not spec.keeps_size:
        raise ValueError(f"spec.padding must be 'same' or what keeps the map's size in a network, got padding={spec.padding}")


def placed_extractor(
    in_channels: int,
    out_channels: int,
    spec: ExtractorSpec,
    stride: Pair = 1,
    *,
    shrink: bool = True,
    guide_channels: int | None = None,
) -> nn.Module:
    """Return an extractor of any spec for one place in a network, with a map of the size that the place needs.

    Args:
        in_channels: C.
        out_channels: O.
        spec: the extractor.
        stride: pixels between windows, an int or (y, x).
        shrink: whether the map becomes smaller by ``stride``. With it, a fold, whose map keeps its size, is followed by an average
            over ``stride x stride`` pixels. Without it, a gather has stride 1, and only the windows of a fold are ``stride`` apart.
        guide_channels: channels of the guide, as of :class:`UnifiedExtractor2d`.

    Shape:
        ``[B, C, H, W]`` to ``[B, O, ceil(H/stride), ceil(W/stride)]``, or to ``[B, O, H, W]`` without ``shrink``.

    Raises:
        ValueError: a padding that changes the size of the map, or a spec that upsamples it.
    """
    check_keeps_size(spec)
    fold = spec.aggregation == "fold"
    extractor = UnifiedExtractor2d(
        in_channels, out_channels, spec, stride if shrink or fold else 1, guide_channels=guide_channels
    )
    placed = RoomForWindows(extractor) if spec.offsets.kind == "window_shift" else extractor
    if fold and shrink and as_pair(stride) != (1, 1):
        return PooledExtractor(placed, AveragePool(stride))
    return placed
