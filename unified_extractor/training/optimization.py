"""The optimizer and its schedule: which parameters decay, which have a learning rate of their own, and the rate at each
step."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from unified_extractor.training.architecture import generating_parameters, offset_parameters


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """The settings of optimizer and learning rate.

    Attributes:
        optimizer: ``adamw``, or ``sgd`` with Nesterov momentum.
        learning_rate: largest learning rate, reached after the warm-up.
        generator_learning_rate_scale: factor on the learning rate of the parameters that generate kernels and offsets.
        offset_learning_rate_scale: a further factor for those that generate offsets alone; 0.1 in the released deformable convolutions.
        weight_decay: weight decay of all parameters but norms, biases, and those that the network names in ``no_weight_decay()``.
        momentum: momentum of ``sgd``.
        warmup_epochs: length of the linear rise before the cosine, in epochs.
        final_learning_rate: learning rate at the end of the cosine.
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    generator_learning_rate_scale: float = 1.0
    offset_learning_rate_scale: float = 1.0
    weight_decay: float = 0.05
    momentum: float = 0.9
    warmup_epochs: float = 1.0
    final_learning_rate: float = 0.0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "generator_learning_rate_scale", "offset_learning_rate_scale"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("weight_decay", "warmup_epochs"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.optimizer == "sgd" and not 0 < self.momentum < 1:
            raise ValueError(f"momentum must lie between 0 and 1, got {self.momentum}")
        if not 0 <= self.final_learning_rate <= self.learning_rate:
            raise ValueError(
                f"final_learning_rate must lie in [0, learning_rate], got {self.final_learning_rate}, "
                f"learning_rate={self.learning_rate}"
            )

    def build(self, network: nn.Module, *, fused: bool | None = None) -> Optimizer:
        """Return the optimizer of a network's parameters; ``fused`` makes it one kernel for each group of them."""
        groups = parameter_groups(network, self)
        if self.optimizer == "adamw":
            return torch.optim.AdamW(groups, lr=self.learning_rate, fused=fused)
        return torch.optim.SGD(groups, lr=self.learning_rate, momentum=self.momentum, nesterov=True, fused=fused)

    def schedule(self, optimizer: Optimizer, *, steps: int, warmup_steps: int) -> LRScheduler:
        """Return the schedule of the learning rate: it rises linearly for ``warmup_steps``, then falls along half a cosine
        until ``steps``."""
        cosine = CosineAnnealingLR(optimizer, T_max=max(1, steps - warmup_steps), eta_min=self.final_learning_rate)
        if warmup_steps == 0:
            return cosine
        rise = LinearLR(optimizer, start_factor=1 / (warmup_steps + 1), total_iters=warmup_steps)
        return SequentialLR(optimizer, [rise, cosine], milestones=[warmup_steps])


def parameter_groups(network: nn.Module, settings: Optimization) -> list[dict[str, Any]]:
    """Return the trainable parameters grouped by weight decay and learning rate; vectors, such as norms and biases, do not
    decay."""
    named = getattr(network, "no_weight_decay", None)
    exempt = set(named()) if callable(named) else set()
    generating, of_offsets = generating_parameters(network), offset_parameters(network)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decay = settings.weight_decay if parameter.ndim > 1 and name not in exempt else 0.0
            scale = settings.generator_learning_rate_scale if name in generating else 1.0
            scale *= settings.offset_learning_rate_scale if name in of_offsets else 1.0
            groups.setdefault((decay, scale * settings.learning_rate), []).append(parameter)
    return [{"params": members, "weight_decay": decay, "lr": rate} for (decay, rate), members in groups.items()]
