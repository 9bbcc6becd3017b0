"""A staged network of a given cost, whatever its extractor: what makes extractors comparable."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from unified_extractor.analysis.cost import Cost, cost
from unified_extractor.models.arguments import Specs, check_sizes
from unified_extractor.models.extractor_net import ExtractorNet

TOLERANCE = 0.03
"""By how much a matched figure may differ from what was asked for, relative."""


class NoMatchError(ValueError):
    """No widths of the MLPs give the cost that was asked for."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What two networks that are compared have in common."""

    num_classes: int
    in_chans: int
    image_size: int
    widths: Sequence[int]
    depths: Sequence[int]
    stem_stride: int

    def network(self, spec: Specs | None, hidden: Sequence[int]) -> ExtractorNet:
        """With so many hidden channels in every stage's MLPs, on the meta device."""
        with torch.device("meta"):
            return ExtractorNet(
                self.num_classes,
                spec,
                in_chans=self.in_chans,
                widths=self.widths,
                depths=self.depths,
                stem_stride=self.stem_stride,
                mlp_ratio=self.ratios(hidden),
            )

    def cost(self, spec: Specs | None, hidden: Sequence[int]) -> Cost:
        """Of one image."""
        return cost(self.network(spec, hidden), (self.in_chans, self.image_size, self.image_size))

    def ratios(self, hidden: Sequence[int]) -> list[float]:
        """Hidden channels as multiples of the widths."""
        return [channels / width for channels, width in zip(hidden, self.widths, strict=True)]


def matching_widths(
    spec: Specs | None, shape: Shape, multiply_adds: int, parameters: int, match: Literal["both", "multiply_adds", "parameters"]
) -> list[int]:
    """Hidden channels of every stage's MLPs, so that a network with this extractor costs what is asked for.

    Multiply-adds and parameters are linear in the hidden channels: early stages cost multiply-adds, late ones parameters. So there are two
    dials, one multiple of the width for all stages but the last, and one for the last; matching one figure alone turns both alike.

    Args:
        spec: the extractor, or one a stage.
        shape: all else.
        multiply_adds, parameters: what one image and the network are to cost.
        match: which of the two must be met.

    Raises:
        NoMatchError: no positive widths meet it within :data:`TOLERANCE`; the message says what the extractor alone costs.
    """
    least = [1] * len(shape.widths)
    base = shape.cost(spec, least)
    slopes = []
    for last in (False, True):
        more = [1 + width * ((i == len(least) - 1) == last) for i, width in enumerate(shape.widths)]
        raised = shape.cost(spec, more)
        slopes.append((raised.multiply_adds - base.multiply_adds, raised.parameters - base.parameters))
    missing = (multiply_adds - base.multiply_adds, parameters - base.parameters)
    if match == "both":
        (a, c), (b, d) = slopes
        early, late = (missing[0] * d - missing[1] * b) / (a * d - b * c), (a * missing[1] - c * missing[0]) / (a * d - b * c)
    else:
        which = 0 if match == "multiply_adds" else 1
        early = late = missing[which] / (slopes[0][which] + slopes[1][which])
    dials = [early] * (len(least) - 1) + [late]
    hidden = [round(1 + dial * width) for dial, width in zip(dials, shape.widths, strict=True)]
    if min(hidden) < 1 or not _meets(shape.cost(spec, hidden), multiply_adds, parameters, match):
        raise NoMatchError(
            f"no MLP widths give {multiply_adds:,} multiply-adds and {parameters:,} parameters (match={match!r}): with one hidden "
            f"channel there are {base.multiply_adds:,} and {base.parameters:,}, and the stages would need {hidden} hidden channels"
        )
    return hidden


def _meets(found: Cost, multiply_adds: int, parameters: int, match: str) -> bool:
    gaps = {
        "multiply_adds": abs(found.multiply_adds / multiply_adds - 1),
        "parameters": abs(found.parameters / parameters - 1),
    }
    return all(gap <= TOLERANCE for name, gap in gaps.items() if match in ("both", name))


class MatchedNet(ExtractorNet):
    """:class:`ExtractorNet` with the MLP widths at which it costs what is asked for, whatever the extractor.

    Args:
        num_classes: outputs.
        spec: one extractor for all stages, or one each; None: :func:`unified_extractor.presets.unified`.
        multiply_adds: of one image, as :func:`unified_extractor.analysis.cost` counts them.
        parameters: of the network.
        image_size: pixels along either side, at which multiply-adds are counted; other sizes run too.
        match: which of the two must be met within 3 %; "both" turns two dials, the MLPs of the last stage and all others.
        in_chans, widths, depths, stem_stride, drop_rate, drop_path_rate: as of :class:`ExtractorNet`.

    Attributes:
        hidden: hidden channels of every stage's MLPs.

    Shape:
        ``[B, in_chans, H, W]`` to logits ``[B, num_classes]``.

    Raises:
        NoMatchError: no widths meet what is asked for.
        ValueError, TypeError: as :class:`ExtractorNet`.
    """

    def __init__(
        self,
        num_classes: int = 10,
        spec: Specs | None = None,
        *,
        multiply_adds: int,
        parameters: int,
        image_size: int = 32,
        match: Literal["both", "multiply_adds", "parameters"] = "both",
        in_chans: int = 3,
        widths: Sequence[int] = (32, 64, 128),
        depths: Sequence[int] = (1, 1, 1),
        stem_stride: int = 1,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        for name, value in (("multiply_adds", multiply_adds), ("parameters", parameters), ("image_size", image_size)):
            check_sizes(name, [value])
        if match not in ("both", "multiply_adds", "parameters"):
            raise ValueError(f"match must be 'both', 'multiply_adds' or 'parameters', got {match!r}")
        shape = Shape(
            num_classes=num_classes,
            in_chans=in_chans,
            image_size=image_size,
            widths=widths,
            depths=depths,
            stem_stride=stem_stride,
        )
        hidden = matching_widths(spec, shape, multiply_adds, parameters, match)
        super().__init__(
            num_classes,
            spec,
            in_chans=in_chans,
            widths=widths,
            depths=depths,
            stem_stride=stem_stride,
            mlp_ratio=shape.ratios(hidden),
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
        )
        self.hidden = hidden
        self.config = {"network": type(self).__name__} | given | {"spec": self.specs}
