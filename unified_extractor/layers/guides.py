"""The guide of a layer: another map than the image that is sampled, from which kernels and offsets are generated.

B batch, C channels of the image, H, W its size, Ho, Wo output positions.
"""

from typing import Any

from torch import Tensor

from unified_extractor.ops.autocast import autocasts
from unified_extractor.ops.checks import companion, tensor
from unified_extractor.ops.geometry import Geometry
from unified_extractor.spec import ExtractorSpec


def guide_size(spec: ExtractorSpec, geometry: Geometry) -> tuple[int, int]:
    """Return height and width of the guide: those of the image or, where the spec says so, those of its finer output."""
    return geometry.output if spec.generator.guide == "output" else geometry.image


def check_guide_channels(spec: ExtractorSpec, guide_channels: Any) -> None:
    """Raise ``ValueError`` for a number of channels of a guide from which a layer of this spec would compute nothing, or that is none."""
    if isinstance(guide_channels, bool) or not isinstance(guide_channels, int) or guide_channels < 1:
        raise ValueError(f"guide_channels must be an int of at least 1, got {guide_channels!r}")
    if not spec.reads_guide:
        raise ValueError(
            f"guide_channels={guide_channels} needs something that is computed from a guide, got dynamic_kernel.source='none' and "
            f"offsets.kind={spec.offsets.kind!r}"
        )


def source_of_kernels(spec: ExtractorSpec, x: Tensor, guide: Tensor | None, channels: int, geometry: Geometry) -> Tensor:
    """Return the map that kernels and offsets are generated from: the guide, if there is one, else the image.

    Args:
        spec: spec of the layer.
        x: image ``[B, C, H, W]``.
        guide: ``[B, channels, H, W]``, or None.
        channels: number of channels that the layer generates from.
        geometry: sizes of the call.

    Raises:
        ValueError, TypeError: a guide that is missing, or does not fit; the message names the rule.
    """
    if guide is None:
        if channels != x.shape[1] or spec.generator.guide == "output":
            raise ValueError(
                "forward(x, guide) needs a guide in a layer with other guide_channels than in_channels or with generator.guide='output', "
                f"got None, guide_channels={channels}, in_channels={x.shape[1]}, generator.guide={spec.generator.guide!r}"
            )
        return x
    if not spec.reads_guide:
        raise ValueError(
            "guide needs something that is computed from it, got dynamic_kernel.source='none' and "
            f"offsets.kind={spec.offsets.kind!r}"
        )
    tensor("guide", guide, "[B, C, H, W]")
    if not autocasts(x):  # which casts the guide where it is used
        companion("guide", guide, "[B, C, H, W]", x)
    expected = (x.shape[0], channels, *guide_size(spec, geometry))
    if tuple(guide.shape) != expected:
        raise ValueError(f"guide must have shape {list(expected)}, got {list(guide.shape)}")
    return guide
