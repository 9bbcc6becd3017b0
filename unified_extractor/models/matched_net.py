"""A staged network of a given cost, whatever its extractor: what makes extractors comparable."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from unified_extractor.models.arguments import Specs, check_sizes
from unified_extractor.models.extractor_net import ExtractorNet
from unified_extractor.profiling.cost import multiply_adds

TOLERANCE = 0.03
"""By how much a matched figure may differ from what was asked for, relative."""


class NoMatchError(ValueError):
    """No widths of the MLPs give the cost that was asked for."""


class Budget(NamedTuple):
    """What a network costs, or may cost."""

    multiply_adds: int
    """Of one image."""
    parameters: int


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What two networks that are compared have in common."""

    num_classes: int
    in_chans: int
    image_size: int
    widths: Sequence[int]
    depths: Sequence[int]
    stem_stride: int

    def cost(self, spec: Specs | None, hidden: Sequence[int]) -> Budget:
        """With so many hidden channels in every stage's MLPs, counted on the meta device."""
        with torch.device("meta"):
            network = ExtractorNet(
                self.num_classes,
                spec,
                in_chans=self.in_chans,
                widths=self.widths,
                depths=self.depths,
                stem_stride=self.stem_stride,
                mlp_ratio=self.ratios(hidden),
            )
        products = multiply_adds(network, (self.in_chans, self.image_size, self.image_size))
        return Budget(products, sum(parameter.numel() for parameter in network.parameters()))

    def of_a_channel(self) -> list[Budget]:
        """What one more hidden channel costs in every stage."""
        costs, size = [], self.image_size
        for stage, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            size = -(-size // (2 if stage else self.stem_stride))
            costs.append(Budget(depth * 2 * width * size**2, depth * (2 * width + 1)))
        return costs

    def ratios(self, hidden: Sequence[int]) -> list[float]:
        """Hidden channels as multiples of the widths."""
        return [channels / width for channels, width in zip(hidden, self.widths, strict=True)]


def matching_widths(
    spec: Specs | None, shape: Shape, target: Budget, match: Literal["both", "multiply_adds", "parameters"]
) -> list[int]:
    """Hidden channels of every stage's MLPs, so that a network with this extractor costs what is asked for.

    Multiply-adds and parameters are linear in the hidden channels: early stages cost multiply-adds, late ones parameters. So there are two
    dials, one multiple of the width for all stages but the last, and one for the last; matching one figure alone turns both alike.

    Args:
        spec: the extractor, or one a stage.
        shape: all else.
        target: what the network is to cost.
        match: which of the two must be met.

    Raises:
        NoMatchError: no positive widths meet it within :data:`TOLERANCE`; the message says what the extractor alone costs.
    """
    last = len(shape.widths) - 1
    base, slopes = shape.cost(spec, [1] * (last + 1)), shape.of_a_channel()
    missing = Budget(*(asked - there for asked, there in zip(target, base, strict=True)))
    turns = [[width * cost for cost in slope] for width, slope in zip(shape.widths, slopes, strict=True)]
    early, late = [sum(costs) for costs in zip(*turns[:last], strict=True)] or [0, 0], turns[last]
    whole = early[0] * late[1] - late[0] * early[1]  # 0: both dials turn the two figures alike, as if there were one
    if match == "both" and whole:
        first = (missing.multiply_adds * late[1] - missing.parameters * late[0]) / whole
        second = (missing.parameters * early[0] - missing.multiply_adds * early[1]) / whole
    else:
        which = 1 if match == "parameters" else 0
        first = second = missing[which] / (early[which] + late[which])
    dials = [first] * last + [second]
    hidden = [round(1 + dial * width) for dial, width in zip(dials, shape.widths, strict=True)]
    found = Budget(*(base[i] + sum((n - 1) * slope[i] for n, slope in zip(hidden, slopes, strict=True)) for i in (0, 1)))
    if min(hidden) < 1 or not _meets(found, target, match):
        raise NoMatchError(
            f"no MLP widths give {target.multiply_adds:,} multiply-adds and {target.parameters:,} parameters (match={match!r}): with "
            f"one hidden channel there are {base.multiply_adds:,} and {base.parameters:,}, and the stages would need {hidden} hidden "
            "channels"
        )
    return hidden


def _meets(found: Budget, target: Budget, match: str) -> bool:
    gaps = {name: abs(there / asked - 1) for name, there, asked in zip(Budget._fields, found, target, strict=True)}
    return all(gap <= TOLERANCE for name, gap in gaps.items() if match in ("both", name))


class MatchedNet(ExtractorNet):
    """:class:`ExtractorNet` with the MLP widths at which it costs what is asked for, whatever the extractor.

    Args:
        num_classes: outputs.
        spec: one extractor for all stages, or one each; None: :func:`unified_extractor.presets.unified`.
        multiply_adds: of one image, as :func:`unified_extractor.profiling.cost` counts them.
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
        hidden = matching_widths(spec, shape, Budget(multiply_adds, parameters), match)
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
