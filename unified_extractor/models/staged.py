"""The base of all networks: stem, stages and head, with the methods by which timm and torchvision use a backbone.

The methods and ``feature_info`` have timm's names. The stages are children in the order of their use, which torchvision's
``BackboneWithFPN`` needs.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from unified_extractor.layers.offsets import ParameterOffsets
from unified_extractor.models.arguments import check_rate, check_size
from unified_extractor.spec import ExtractorSpec
from unified_extractor.task import ImageTask


class Stage(nn.Sequential):
    """Blocks one after another.

    Attributes:
        out_channels: channels of the output.
        stride: factor by which the map becomes smaller.
        grad_checkpointing: save only the inputs of blocks for backward, and recompute what is inside them.
    """

    def __init__(self, *blocks: nn.Module, out_channels: int, stride: int) -> None:
        super().__init__(*blocks)
        self.out_channels, self.stride = out_channels, stride
        self.grad_checkpointing = False

    def forward(self, input: Tensor) -> Tensor:
        """Return ``[B, out_channels, h, w]`` for ``[B, C, H, W]``."""
        if not (self.grad_checkpointing and torch.is_grad_enabled()):
            return super().forward(input)
        for block in self:
            if torch.compiler.is_compiling():  # takes no contexts, and updates the statistics of batch norms once by itself
                input = checkpoint(block, input, use_reentrant=False)
            else:
                input = checkpoint(block, input, use_reentrant=False, context_fn=partial(_checkpoint_contexts, block))
        return input


class PooledHead(nn.Module):
    """Global average pooling, dropout, then a linear classifier."""

    pool = "avg"

    def __init__(self, channels: int, num_classes: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        check_rate("drop_rate", drop_rate)
        self.channels = channels
        self.dropout = nn.Dropout(drop_rate)
        self.reset(num_classes)

    def reset(self, num_classes: int) -> None:
        """Replace the classifier; 0 classes: none, the pooled features are the output."""
        self.fc = classifier(self.channels, num_classes)

    def pooled(self, x: Tensor) -> Tensor:
        """Return the features ``[B, C]`` of a map ``[B, C, h, w]``."""
        return x.mean((2, 3))

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits ``[B, num_classes]`` of a map ``[B, C, h, w]``, or with ``pre_logits`` the classifier's input."""
        x = self.pooled(x)
        return x if pre_logits else self.fc(self.dropout(x))


class StagedNetwork(nn.Module):
    """An image classifier of a stem, stages and a head; the base class of all networks.

    Args:
        in_chans: channels of the image.
        num_classes: number of outputs; 0: no classifier, the head's features.
        specs: the extractor of every stage that has one.
        stem: module between the image and the first stage.
        stem_stride: factor by which the stem makes the map smaller.
        stages: stages in order; they become the children ``stage1``, ``stage2``, ...
        head: module between the last map and the logits, with ``reset``, ``fc``, ``channels`` (the inputs of ``fc``) and ``pool``.
        norm: module after the last stage.
        arguments: the arguments of the subclass's constructor, for :attr:`config`.

    Attributes:
        feature_info: channels (``num_chs``), ``reduction`` and name (``module``) of every stage's map.
        num_features: channels of the last map.
        head_hidden_size: channels of the classifier's input.
        config: the name of the class as ``network``, and the arguments that build this network again.
        task: names of the classes and normalization of the images that the network was trained on, where they are known.

    Shape:
        ``[B, in_chans, H, W]`` to logits ``[B, num_classes]``.
    """

    classifiers: ClassVar[tuple[str, ...]] = ("head.fc",)
    """Names of the layers that have one row of weights for each class."""
    usual_image_size: ClassVar[int] = 224
    """Height and width of the images for which the family is meant."""
    task: ImageTask | None = None

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
        accepted = inspect.signature(type(self)).parameters  # a subclass may have set some of the arguments itself
        arguments = {name: value for name, value in arguments.items() if name in accepted}
        self.config: dict[str, Any] = {"network": type(self).__name__} | arguments | {"spec": self.specs}
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
        """Return the stages in order."""
        return [getattr(self, info["module"]) for info in self.feature_info if hasattr(self, info["module"])]

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last stage's map ``[B, num_features, h, w]`` of images ``[B, in_chans, H, W]``."""
        self._check(x)
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits ``[B, num_classes]`` of the last stage's map, or with ``pre_logits`` the classifier's input."""
        return self.head(x, pre_logits=True) if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[B, num_classes]`` of images ``[B, in_chans, H, W]``."""
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
        """Return the maps of chosen stages.

        Args:
            x: images ``[B, in_chans, H, W]``.
            indices: indices of stages, negative ones from the end; an int: the last so many stages; None: all.
            norm: apply the final norm to the last stage's map, where it is chosen.
            stop_early: do not run stages after the last chosen one.
            output_fmt: "NCHW".
            intermediates_only: return the maps without the final features.

        Returns:
            A list of maps ``[B, num_chs, h, w]``, or (features after the last stage that ran, list).
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        chosen = self._chosen(indices)
        stages = self.stages
        used = stages[: max(chosen) + 1] if stop_early or intermediates_only else stages
        maps = []
        self._check(x)
        x = self.stem(x)
        for stage in used:
            x = stage(x)
            maps.append(x)
        if len(used) == len(stages):
            x = self.norm(x)
            maps[-1] = x if norm else maps[-1]
        chosen_maps = [maps[i] for i in chosen]
        return chosen_maps if intermediates_only else (x, chosen_maps)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what :meth:`forward_intermediates` with these indices does not need. Return the indices, none negative."""
        chosen = self._chosen(indices)
        for info in self.feature_info[max(chosen) + 1 :]:
            if hasattr(self, info["module"]):
                delattr(self, info["module"])
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.head = nn.Identity()
        return chosen

    def get_classifier(self) -> nn.Module:
        """Return the last linear layer, or an identity where there is none."""
        return self.head if isinstance(self.head, nn.Identity) else self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier; 0 classes: none. Raise ``ValueError`` for another ``global_pool`` than the head's own."""
        self.check_pool(global_pool)
        like = next(self.head.parameters(), next(self.parameters()))
        self.head.reset(num_classes)
        self.head.to(like)
        self.num_classes = self.config["num_classes"] = num_classes
        self.task = None  # other classes

    def check_pool(self, global_pool: str | None) -> None:
        """Raise ``ValueError`` for another way of pooling than the head's own, or if there is no head any more."""
        if isinstance(self.head, nn.Identity):
            raise ValueError("the network has no head: prune_intermediate_layers removed it")
        if global_pool not in (None, self.head.pool):
            raise ValueError(f"global_pool must be None or {self.head.pool!r} in {type(self).__name__}, got {global_pool!r}")

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns of the layers that timm's layer-wise learning rates treat alike: stem, each block or stage, head."""
        block = r"^stage(\d+)" if coarse else r"^stage(\d+)\.(\d+)"
        return {"stem": r"^stem", "blocks": [(block, None), (r"^norm", (99999,))]}

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters of several axes that are not weights, such as sampling points: optimizers should not let them
        decay."""
        return {f"{name}.points" for name, part in self.named_modules() if isinstance(part, ParameterOffsets)}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory in training: recompute the activations inside blocks in backward."""
        for stage in self.stages:
            stage.grad_checkpointing = enable

    def _check(self, x: Tensor) -> None:
        if not isinstance(x, Proxy):  # torch.fx records operations, not their conditions
            self._check_images(x)

    def _check_images(self, x: Tensor) -> None:
        """Raise ``ValueError`` for images that the network does not take."""
        if x.dim() != 4 or x.shape[1] != self.in_chans:
            raise ValueError(f"x must be [B, in_chans, H, W] with in_chans={self.in_chans}, got shape {list(x.shape)}")

    def _chosen(self, indices: int | Sequence[int] | None) -> list[int]:
        """Return indices of stages as a list without negative ones. Raise ``TypeError``, or ``ValueError`` for other stages."""
        stages = len(self.stages)
        count = stages if indices is None else indices
        wanted = range(stages - count, stages) if isinstance(count, int) else count
        if not isinstance(wanted, Sequence) or not all(isinstance(i, int) for i in wanted):
            raise TypeError(f"indices must be an int, a list of ints or None, got {indices!r}")
        chosen = [i + stages if -stages <= i < 0 else i for i in wanted]
        if not chosen or min(chosen) < 0 or max(chosen) >= stages:
            raise ValueError(f"indices must name stages 0 to {stages - 1}, got {indices!r}")
        return chosen


def classifier(channels: int, num_classes: int) -> nn.Module:
    """Return a linear layer, or an identity for 0 classes. Raise ``TypeError`` or ``ValueError`` for a wrong ``num_classes``."""
    check_size("num_classes", num_classes, 0)
    return nn.Linear(channels, num_classes) if num_classes else nn.Identity()


def _checkpoint_contexts(block: nn.Module) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Return the contexts of a block's forward pass and of its recomputation."""
    return nullcontext(), _frozen_statistics(block)


@contextmanager
def _frozen_statistics(block: nn.Module) -> Iterator[None]:
    """Keep batch norms from updating their running statistics with a batch that they have seen in the forward pass."""
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
