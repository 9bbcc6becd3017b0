"""What all networks have in common: a stem, stages, a head, and the methods by which the ecosystem uses them.

The names of the methods and of ``feature_info`` are timm's; the stages are children in the order of their use, which torchvision's
``BackboneWithFPN`` needs.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from unified_extractor.models.arguments import check_rate, check_sizes
from unified_extractor.spec import ExtractorSpec


class Stage(nn.Sequential):
    """Blocks in a row.

    Attributes:
        out_channels: channels of the map it gives.
        stride: by how much it shrinks the map.
        grad_checkpointing: keep the borders of the blocks alone and compute the rest again in backward.
    """

    def __init__(self, *blocks: nn.Module, out_channels: int, stride: int) -> None:
        super().__init__(*blocks)
        self.out_channels, self.stride = out_channels, stride
        self.grad_checkpointing = False

    def forward(self, input: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, out_channels, h, w]``."""
        if not (self.grad_checkpointing and torch.is_grad_enabled()):
            return super().forward(input)
        for block in self:
            if torch.compiler.is_compiling():  # takes no contexts, and moves the statistics of batch norms once by itself
                input = checkpoint(block, input, use_reentrant=False)
            else:
                input = checkpoint(block, input, use_reentrant=False, context_fn=partial(_contexts, block))
        return input


class PooledHead(nn.Module):
    """Global average, dropout, then a linear classifier."""

    pool = "avg"

    def __init__(self, channels: int, num_classes: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        check_rate("drop_rate", drop_rate)
        self.channels = channels
        self.dropout = nn.Dropout(drop_rate)
        self.fc = classifier(channels, num_classes)

    def reset(self, num_classes: int) -> None:
        """A new classifier; 0 classes: none, the pooled features are the output."""
        self.fc = classifier(self.channels, num_classes)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """``[B, C, h, w]`` to logits ``[B, num_classes]``; ``pre_logits``: to what the classifier reads, ``[B, channels]``."""
        x = x.mean((2, 3))
        return x if pre_logits else self.fc(self.dropout(x))


class StagedNetwork(nn.Module):
    """An image classifier of a stem, stages and a head.

    Args:
        in_chans: channels of the image.
        num_classes: outputs; 0: no classifier, the head's features.
        specs: the extractor of every stage that has one.
        stem: from the image to the first stage.
        stem_stride: by how much the stem shrinks the image.
        stages: in order; they become the children ``stage1``, ``stage2``, ...
        head: from the last map to the logits, with ``reset``, ``fc``, ``channels`` (that ``fc`` reads) and ``pool``.
        norm: behind the last stage.
        arguments: the subclass's ``locals()``, from which :attr:`config` keeps what its constructor was called with.

    Attributes:
        feature_info: channels (``num_chs``), ``reduction`` and name (``module``) of every stage's map.
        num_features: channels of the last map.
        head_hidden_size: channels that the classifier reads.
        config: the class's name as ``network``, and the arguments that make this network again.

    Shape:
        ``[B, in_chans, H, W]`` to logits ``[B, num_classes]``.
    """

    classifiers: ClassVar[tuple[str, ...]] = ("head.fc",)
    """Names of the layers that have a row a class."""

    def __init__(
        self,
        *,
        in_chans: int,
        num_classes: int,
        specs: Sequence[ExtractorSpec],
        stem: nn.Module,
        stem_stride: int,
        stages: Sequence[Stage],
        head: nn.Module,
        norm: nn.Module | None = None,
        arguments: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.in_chans, self.num_classes, self.specs = in_chans, num_classes, list(specs)
        given = inspect.signature(type(self)).parameters
        kept = {name: value for name, value in arguments.items() if name in given}
        self.config: dict[str, Any] = {"network": type(self).__name__} | kept | {"spec": self.specs}
        self.stem = stem
        self.feature_info: list[dict[str, Any]] = []
        reduction = stem_stride
        for i, stage in enumerate(stages, 1):
            self.add_module(f"stage{i}", stage)
            reduction *= stage.stride
            self.feature_info.append({"num_chs": stage.out_channels, "reduction": reduction, "module": f"stage{i}"})
        self.num_features = stages[-1].out_channels
        self.norm = nn.Identity() if norm is None else norm
        self.head: Any = head
        self.head_hidden_size: int = self.head.channels  # type: ignore[assignment]

    @property
    def stages(self) -> list[Stage]:
        """The stages in order."""
        return [getattr(self, info["module"]) for info in self.feature_info if hasattr(self, info["module"])]

    def forward_features(self, x: Tensor) -> Tensor:
        """``[B, in_chans, H, W]`` to the last stage's map ``[B, num_features, h, w]``."""
        x = self.stem(self._checked(x))
        for stage in self.stages:
            x = stage(x)
        return self.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last stage's map to logits ``[B, num_classes]``, or with ``pre_logits`` to what the classifier reads."""
        return self.head(x, pre_logits=True) if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_chans, H, W]`` to logits ``[B, num_classes]``."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The maps of chosen stages.

        Args:
            x: ``[B, in_chans, H, W]``.
            indices: which stages, from 0, negative from the end; an int: the last so many; None: all.
            norm: apply the final norm to the last stage's map, where it is chosen.
            stop_early: do not run stages behind the last chosen one.
            output_fmt: "NCHW".
            intermediates_only: return the maps without the final features.

        Returns:
            A list of maps ``[B, num_chs, h, w]``, or (features behind the last stage that ran, list).
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        taken = self._indices(indices)
        stages = self.stages
        used = stages[: max(taken) + 1] if stop_early or intermediates_only else stages
        maps = []
        x = self.stem(self._checked(x))
        for stage in used:
            x = stage(x)
            maps.append(x)
        if len(used) == len(stages):
            x = self.norm(x)
            maps[-1] = x if norm else maps[-1]
        found = [maps[i] for i in taken]
        return found if intermediates_only else (x, found)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what :meth:`forward_intermediates` with these indices does not need. Returns the indices, none negative."""
        taken = self._indices(indices)
        for info in self.feature_info[max(taken) + 1 :]:
            if hasattr(self, info["module"]):
                delattr(self, info["module"])
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.head = nn.Identity()
        return taken

    def get_classifier(self) -> nn.Module:
        """The last linear layer; an identity where there is none."""
        return self.head if isinstance(self.head, nn.Identity) else self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier for other classes; 0: none. Raises ``ValueError`` for another ``global_pool`` than the head's own."""
        self.check_pool(global_pool)
        like = next(self.head.parameters(), next(self.parameters()))
        self.head.reset(num_classes)
        self.head.to(like)
        self.num_classes = self.config["num_classes"] = num_classes

    def check_pool(self, global_pool: str | None) -> None:
        """Raise ``ValueError`` for another way of pooling than the head's own, or if there is no head any more."""
        if isinstance(self.head, nn.Identity):
            raise ValueError("the network has no head: prune_intermediate_layers removed it")
        if global_pool not in (None, self.head.pool):
            raise ValueError(f"global_pool must be None or {self.head.pool!r} in {type(self).__name__}, got {global_pool!r}")

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """What timm's layer-wise learning rates treat alike: the stem, every block or stage with what follows it, the head."""
        block = r"^stage(\d+)" if coarse else r"^stage(\d+)\.(\d+)"
        return {"stem": r"^stem", "blocks": [(block, None), (r"^norm", (99999,))]}

    def no_weight_decay(self) -> set[str]:
        """Parameters that are no weights, though they have more than one axis: optimisers should not let them decay."""
        return set()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory in training: activations inside blocks are computed again in backward."""
        for stage in self.stages:
            stage.grad_checkpointing = enable

    def _checked(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1] != self.in_chans:
            raise ValueError(f"x must be [B, in_chans, H, W] with in_chans={self.in_chans}, got shape {list(x.shape)}")
        return x

    def _indices(self, indices: int | Sequence[int] | None) -> list[int]:
        stages = len(self.stages)
        count = stages if indices is None else indices
        wanted = range(stages - count, stages) if isinstance(count, int) else count
        taken = [i + stages if -stages <= i < 0 else i for i in wanted]
        if not taken or min(taken) < 0 or max(taken) >= stages:
            raise ValueError(f"indices must name stages 0 to {stages - 1}, got {indices!r}")
        return taken


def classifier(channels: int, num_classes: int) -> nn.Module:
    """A linear layer, or for 0 classes none. Raises ``TypeError`` or ``ValueError`` for what is no number of classes."""
    check_sizes("num_classes", [num_classes], 0)
    return nn.Linear(channels, num_classes) if num_classes else nn.Identity()


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Of a block's forward pass and of its recomputation."""
    return nullcontext(), _statistics_kept(block)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Inside, batch norms do not move their running statistics: they did so when they saw this batch first."""
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.track_running_stats and m.training]
    momenta = [norm.momentum for norm in norms]
    counters = [(count, count.clone()) for norm in norms if (count := norm.num_batches_tracked) is not None]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for count, before in counters:
            count.copy_(before)
