"""A staged network that costs what is asked for, whatever its extractor, so that extractors can be compared."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count, takewhile
from typing import Literal, NamedTuple, get_args

import torch
from torch import nn

from unified_extractor.models.arguments import Specs, check_positive, check_size, check_stage_sizes, stage_specs
from unified_extractor.models.extractor_net import ExtractorNet
from unified_extractor.names import did_you_mean, suggesting_arguments
from unified_extractor.profiling.cost import multiply_adds

Match = Literal["both", "multiply_adds", "parameters"]
_MATCHES = get_args(Match)
TOLERANCE = 0.03
"""Largest relative difference between a figure of the network and the one asked for."""


class NoMatchError(ValueError):
    """An error: no depths and widths of the MLPs give the cost that was asked for."""


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
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    stem_stride: int

    def cost(self, spec: Specs | None, hidden: Sequence[int]) -> Budget:
        """Return the cost with so many hidden channels in every stage's MLPs, counted without allocating the network."""
        return _cost(self, tuple(spec) if isinstance(spec, Sequence) else spec, tuple(hidden))

    def cost_per_hidden_channel(self) -> list[Budget]:
        """Return for every stage the cost of one more hidden channel in its MLPs."""
        maps = zip(self.widths, self.depths, self._sizes(), strict=True)
        return [Budget(depth * 2 * width * size**2, depth * (2 * width + 1)) for width, depth, size in maps]

    def cost_per_block(self, spec: Specs | None) -> list[Budget]:
        """Return for every stage the cost of one more block whose MLP has one hidden channel."""
        stages = self._network(spec, [1] * len(self.widths)).stages
        maps = zip(stages, self.widths, self._sizes(), strict=True)
        return [_counted(stage[-1], (width, size, size)) for stage, width, size in maps]

    def _sizes(self) -> list[int]:
        """Return the height, and width, of every stage's map."""
        sizes, size = [], self.image_size
        for stage in range(len(self.widths)):
            size = -(-size // (2 if stage else self.stem_stride))
            sizes.append(size)
        return sizes

    def _network(self, spec: Specs | None, hidden: Sequence[int]) -> ExtractorNet:
        """Return the network with so many hidden channels, without allocating it."""
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

    def ratios(self, hidden: Sequence[int]) -> list[float]:
        """Return the hidden channels as multiples of the widths."""
        return [channels / width for channels, width in zip(hidden, self.widths, strict=True)]


@lru_cache(maxsize=256)  # a sweep plans one network for every seed
def _cost(shape: Shape, spec: Specs | None, hidden: tuple[int, ...]) -> Budget:
    return _counted(shape._network(spec, hidden), (shape.in_chans, shape.image_size, shape.image_size))


def _counted(module: nn.Module, image: tuple[int, int, int]) -> Budget:
    """Return what a module costs at one image or map ``[C, H, W]``."""
    return Budget(multiply_adds(module, image), sum(parameter.numel() for parameter in module.parameters()))


def matching_widths(spec: Specs | None, shape: Shape, target: Budget, match: Match) -> list[int]:
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
    base = shape.cost(spec, [1] * len(shape.widths))
    hidden = _solved(shape, base, target, match)
    if not _meets(shape, base, hidden, target, match):
        raise NoMatchError(
            f"no MLP widths give {_in_words(target, match)}: with one hidden channel there are {base.multiply_adds:,} and "
            f"{base.parameters:,}, and the stages would need {hidden} hidden channels"
        )
    return hidden


def matching_shape(
    spec: Specs | None, shape: Shape, target: Budget, match: Match, max_mlp_ratio: float
) -> tuple[Shape, list[int]]:
    """Return the shape with the fewest blocks, and the hidden channels, with which a network of this extractor costs what is asked for.

    Blocks are added to those of the shape, as many to every stage but the last, and for "both" another number to the last: as for widths,
    two figures need two dials. No MLP is wider than ``max_mlp_ratio`` times its stage. Of shapes with equally many blocks the one with
    the smallest largest ratio counts.

    Raises:
        NoMatchError: no depths meet what is asked for; the message says what the network costs with the fewest blocks, without its MLPs.
    """
    base, per_block = shape.cost(spec, [1] * len(shape.widths)), shape.cost_per_block(spec)
    found: list[tuple[int, float, Shape, list[int]]] = []
    for added in _added_blocks(base, per_block, target, match):
        blocks = sum(added)
        if found and blocks > found[0][0]:
            break
        deeper = replace(shape, depths=tuple(depth + more for depth, more in zip(shape.depths, added, strict=True)))
        own = _plus(base, *(_times(cost, more) for cost, more in zip(per_block, added, strict=True)))
        hidden = _solved(deeper, own, target, match)
        largest = max(deeper.ratios(hidden))
        if largest <= max_mlp_ratio and _meets(deeper, own, hidden, target, match):
            found.append((blocks, largest, deeper, hidden))
    if not found:
        raise NoMatchError(
            f"no depths give {_in_words(target, match)} with MLPs of at most {max_mlp_ratio:g} times the width: with depths "
            f"{list(shape.depths)} and one hidden channel there are {base.multiply_adds:,} and {base.parameters:,}; give other widths, "
            "or max_mlp_ratio=None, which meets the cost by the widths of the MLPs alone"
        )
    _, _, deeper, hidden = min(found, key=lambda one: one[1])
    return deeper, hidden


def _added_blocks(base: Budget, per_block: Sequence[Budget], target: Budget, match: Match) -> Iterator[list[int]]:
    """Yield the numbers of blocks to add to every stage with which the blocks alone do not cost too much, the fewest in all first."""
    last = len(per_block) - 1

    def fits(added: Sequence[int]) -> bool:
        own = _plus(base, *(_times(cost, more) for cost, more in zip(per_block, added, strict=True)))
        return all(have <= (1 + TOLERANCE) * asked for have, asked in _figures(own, target, match))

    if match != "both" or not last:
        yield from takewhile(fits, ([more] * (last + 1) for more in count()))
        return
    early = list(takewhile(lambda more: fits([more] * last + [0]), count()))
    late = list(takewhile(lambda more: fits([0] * last + [more]), count()))
    yield from sorted(filter(fits, ([one] * last + [other] for one in early for other in late)), key=sum)


def _solved(shape: Shape, base: Budget, target: Budget, match: Match) -> list[int]:
    """Return the hidden channels that solve for the target, whatever their sign; ``base`` is the cost with one in every MLP."""
    last, slopes = len(shape.widths) - 1, shape.cost_per_hidden_channel()
    missing = _minus(target, base)
    per_ratio = [[width * cost for cost in slope] for width, slope in zip(shape.widths, slopes, strict=True)]
    early, late = [sum(costs) for costs in zip(*per_ratio[:last], strict=True)] or [0, 0], per_ratio[last]
    determinant = early[0] * late[1] - late[0] * early[1]  # 0: both ratios change the two figures alike, as one would
    if match == "both" and determinant:
        first = (missing.multiply_adds * late[1] - missing.parameters * late[0]) / determinant
        second = (missing.parameters * early[0] - missing.multiply_adds * early[1]) / determinant
    else:
        which = 1 if match == "parameters" else 0
        first = second = missing[which] / (early[which] + late[which])
    return [round(1 + ratio * width) for ratio, width in zip([first] * last + [second], shape.widths, strict=True)]


def _meets(shape: Shape, base: Budget, hidden: Sequence[int], target: Budget, match: Match) -> bool:
    """Return whether these hidden channels are positive and meet the target; ``base`` is the cost with one in every MLP."""
    found = _plus(base, *(_times(slope, n - 1) for n, slope in zip(hidden, shape.cost_per_hidden_channel(), strict=True)))
    return min(hidden) >= 1 and all(abs(have / asked - 1) <= TOLERANCE for have, asked in _figures(found, target, match))


def _figures(found: Budget, target: Budget, match: Match) -> list[tuple[int, int]]:
    """Return what there is beside what is asked for, of the figures that must be met."""
    names = Budget._fields if match == "both" else (match,)
    return [(getattr(found, name), getattr(target, name)) for name in names]


def _in_words(target: Budget, match: Match) -> str:
    return f"{target.multiply_adds:,} multiply-adds and {target.parameters:,} parameters (match={match!r})"


def _plus(*costs: Budget) -> Budget:
    return Budget(*map(sum, zip(*costs, strict=True)))


def _minus(one: Budget, other: Budget) -> Budget:
    return Budget(one.multiply_adds - other.multiply_adds, one.parameters - other.parameters)


def _times(cost: Budget, number: int) -> Budget:
    return Budget(cost.multiply_adds * number, cost.parameters * number)


class MatchedNet(ExtractorNet):
    """:class:`ExtractorNet` with the depths and MLP widths at which it costs what is asked for, whatever the extractor.

    Depth is the dial that meets the cost, the widths of the MLPs are the fine one: the network has the fewest blocks with which no MLP is
    wider than ``max_mlp_ratio`` times its stage.

    Args:
        num_classes: number of outputs.
        spec: one extractor for all stages, or a list of one for each; None: :func:`unified_extractor.presets.unified`.
        multiply_adds: the multiply-adds asked for, of one image, as :func:`unified_extractor.profiling.cost` counts them.
        parameters: the parameters asked for.
        image_size: height and width of the image whose multiply-adds are counted; other images run too.
        match: which of the two must be met within 3 %; for "both" the MLPs of the last stage have another ratio than all others.
        max_mlp_ratio: the largest ratio of an MLP's hidden channels to the width of its stage; None: any, and the depths stay as they are.
        depths: the fewest blocks of every stage; as many more are added as ``max_mlp_ratio`` asks for.
        in_chans, widths, stem_stride, drop_rate, drop_path_rate: as of :class:`ExtractorNet`.

    Attributes:
        hidden: hidden channels of every stage's MLPs.
        depths: blocks of every stage.

    Shape:
        ``[B, in_chans, H, W]`` to logits ``[B, num_classes]``.

    Raises:
        NoMatchError: no depths and widths meet what is asked for.
        TypeError, ValueError: as for :class:`ExtractorNet`.
    """

    @suggesting_arguments
    def __init__(
        self,
        num_classes: int = 10,
        spec: Specs | None = None,
        *,
        multiply_adds: int,
        parameters: int,
        image_size: int = 32,
        match: Match = "both",
        max_mlp_ratio: float | None = 4.0,
        in_chans: int = 3,
        widths: Sequence[int] = (32, 64, 128),
        depths: Sequence[int] = (1, 1, 1),
        stem_stride: int = 1,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        figures = {"multiply_adds": multiply_adds, "parameters": parameters, "image_size": image_size}
        for name, value in (figures | {"in_chans": in_chans, "stem_stride": stem_stride}).items():
            check_size(name, value)
        check_size("num_classes", num_classes, 0)
        if match not in _MATCHES:
            raise ValueError(f"match must be one of {_MATCHES}, got {match!r}{did_you_mean(match, _MATCHES)}")
        if max_mlp_ratio is not None:
            check_positive("max_mlp_ratio", max_mlp_ratio)
        check_stage_sizes(widths=widths, depths=depths)
        if spec is not None:
            spec = stage_specs(spec, len(widths))
        shape = Shape(
            num_classes=num_classes,
            in_chans=in_chans,
            image_size=image_size,
            widths=tuple(widths),
            depths=tuple(depths),
            stem_stride=stem_stride,
        )
        target = Budget(multiply_adds, parameters)
        if max_mlp_ratio is None:
            hidden = matching_widths(spec, shape, target, match)
        else:
            shape, hidden = matching_shape(spec, shape, target, match, max_mlp_ratio)
        super().__init__(
            num_classes,
            spec,
            in_chans=in_chans,
            widths=widths,
            depths=shape.depths,
            stem_stride=stem_stride,
            mlp_ratio=shape.ratios(hidden),
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
        )
        self.hidden, self.depths = hidden, list(shape.depths)
        self.config = {
            "network": type(self).__name__,
            "num_classes": num_classes,
            "spec": self.specs,
            "multiply_adds": multiply_adds,
            "parameters": parameters,
            "image_size": image_size,
            "match": match,
            "max_mlp_ratio": max_mlp_ratio,
            "in_chans": in_chans,
            "widths": widths,
            "depths": depths,
            "stem_stride": stem_stride,
            "drop_rate": drop_rate,
            "drop_path_rate": drop_path_rate,
        }
