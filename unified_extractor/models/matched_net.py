"""A staged network that costs what is asked for, whatever its extractor, so that extractors can be compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from unified_extractor.models.arguments import Specs, check_size, check_sizes, check_stages
from unified_extractor.models.extractor_net import ExtractorNet
from unified_extractor.names import did_you_mean
from unified_extractor.profiling.cost import multiply_adds

_MATCHES = ("both", "multiply_adds", "parameters")
TOLERANCE = 0.03
"""Largest relative difference between a figure of the network and the one asked for."""


class NoMatchError(ValueError):
    """An error: no widths of the MLPs give the cost that was asked for."""


class Budget(NamedTuple):
    """The cost of a network: what it has, or what it is to have."""

    multiply_adds: int
    """Multiply-adds of one image."""
    parameters: int
    """Parameters of the network."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The arguments that networks of one comparison share: all but the extractor and the widths of the MLPs."""

    num_classes: int
    in_chans: int
    image_size: int
    widths: Sequence[int]
    depths: Sequence[int]
    stem_stride: int

    def cost(self, spec: Specs | None, hidden: Sequence[int]) -> Budget:
        """Return the cost with so many hidden channels in every stage's MLPs, counted without allocating the network."""
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

    def cost_per_hidden_channel(self) -> list[Budget]:
        """Return for every stage the cost of one more hidden channel in its MLPs."""
        costs, size = [], self.image_size
        for stage, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            size = -(-size // (2 if stage else self.stem_stride))
            costs.append(Budget(depth * 2 * width * size**2, depth * (2 * width + 1)))
        return costs

    def ratios(self, hidden: Sequence[int]) -> list[float]:
        """Return the hidden channels as multiples of the widths."""
        return [channels / width for channels, width in zip(hidden, self.widths, strict=True)]


def matching_widths(
    spec: Specs | None, shape: Shape, target: Budget, match: Literal["both", "multiply_adds", "parameters"]
) -> list[int]:
    """Return the hidden channels of every stage's MLPs with which a network of this extractor costs what is asked for.

    Multiply-adds and parameters are linear in the hidden channels: early stages cost multiply-adds, late ones parameters. So two ratios of
    hidden channels to width solve for both figures, one ratio for all stages but the last and one for the last. One figure needs one ratio.

    Args:
        spec: the extractor, or a list of one for each stage.
        shape: all other arguments of the network.
        target: the cost asked for.
        match: the figures that must be met.

    Raises:
        NoMatchError: no positive widths meet them within :data:`TOLERANCE`; the message says what the network costs without its MLPs.
    """
    last = len(shape.widths) - 1
    base, slopes = shape.cost(spec, [1] * (last + 1)), shape.cost_per_hidden_channel()
    missing = Budget(*(asked - have for asked, have in zip(target, base, strict=True)))
    per_ratio = [[width * cost for cost in slope] for width, slope in zip(shape.widths, slopes, strict=True)]
    early, late = [sum(costs) for costs in zip(*per_ratio[:last], strict=True)] or [0, 0], per_ratio[last]
    determinant = early[0] * late[1] - late[0] * early[1]  # 0: both ratios change the two figures alike, as one would
    if match == "both" and determinant:
        first = (missing.multiply_adds * late[1] - missing.parameters * late[0]) / determinant
        second = (missing.parameters * early[0] - missing.multiply_adds * early[1]) / determinant
    else:
        which = 1 if match == "parameters" else 0
        first = second = missing[which] / (early[which] + late[which])
    ratios = [first] * last + [second]
    hidden = [round(1 + ratio * width) for ratio, width in zip(ratios, shape.widths, strict=True)]
    found = Budget(*(base[i] + sum((n - 1) * slope[i] for n, slope in zip(hidden, slopes, strict=True)) for i in (0, 1)))
    if min(hidden) < 1 or not _meets(found, target, match):
        raise NoMatchError(
            f"no MLP widths give {target.multiply_adds:,} multiply-adds and {target.parameters:,} parameters (match={match!r}): with "
            f"one hidden channel there are {base.multiply_adds:,} and {base.parameters:,}, and the stages would need {hidden} hidden "
            "channels"
        )
    return hidden


def _meets(found: Budget, target: Budget, match: str) -> bool:
    differences = {name: abs(have / asked - 1) for name, have, asked in zip(Budget._fields, found, target, strict=True)}
    return all(difference <= TOLERANCE for name, difference in differences.items() if match in ("both", name))


class MatchedNet(ExtractorNet):
    """:class:`ExtractorNet` with the MLP widths at which it costs what is asked for, whatever the extractor.

    Args:
        num_classes: number of outputs.
        spec: one extractor for all stages, or a list of one for each; None: :func:`unified_extractor.presets.unified`.
        multiply_adds: the multiply-adds asked for, of one image, as :func:`unified_extractor.profiling.cost` counts them.
        parameters: the parameters asked for.
        image_size: height and width of the image whose multiply-adds are counted; other images run too.
        match: which of the two must be met within 3 %; for "both" the MLPs of the last stage have another ratio than all others.
        in_chans, widths, depths, stem_stride, drop_rate, drop_path_rate: as of :class:`ExtractorNet`.

    Attributes:
        hidden: hidden channels of every stage's MLPs.

    Shape:
        ``[B, in_chans, H, W]`` to logits ``[B, num_classes]``.

    Raises:
        NoMatchError: no widths meet what is asked for.
        TypeError, ValueError: as for :class:`ExtractorNet`.
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
        for name, value in (("multiply_adds", multiply_adds), ("parameters", parameters), ("image_size", image_size)):
            check_size(name, value)
        if match not in _MATCHES:
            raise ValueError(f"match must be one of {_MATCHES}, got {match!r}{did_you_mean(match, _MATCHES)}")
        check_sizes("widths", widths)
        check_sizes("depths", depths)
        check_stages(widths=widths, depths=depths)
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
        self.config = {
            "network": type(self).__name__,
            "num_classes": num_classes,
            "spec": self.specs,
            "multiply_adds": multiply_adds,
            "parameters": parameters,
            "image_size": image_size,
            "match": match,
            "in_chans": in_chans,
            "widths": widths,
            "depths": depths,
            "stem_stride": stem_stride,
            "drop_rate": drop_rate,
            "drop_path_rate": drop_path_rate,
        }
