"""The optimiser: which parameters decay, which learn at another rate, and how the learning rate moves."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from unified_extractor.training.architecture import generating_parameters


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """How weights are learned.

    Attributes:
        optimizer: ``adamw``, or ``sgd`` with Nesterov momentum.
        learning_rate: at its peak, after the warm-up.
        generator_learning_rate_scale: times the learning rate for what generates kernels and offsets.
        weight_decay: of everything but norms, biases, and what the network itself names in ``no_weight_decay()``.
        momentum: of ``sgd``.
        warmup_epochs: length of the linear rise before the cosine.
        final_learning_rate: at the end of the cosine.
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    generator_learning_rate_scale: float = 1.0
    weight_decay: float = 0.05
    momentum: float = 0.9
    warmup_epochs: float = 1.0
    final_learning_rate: float = 0.0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "generator_learning_rate_scale"):
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

    def build(self, network: nn.Module) -> Optimizer:
        """The optimiser of a network's parameters."""
        groups = parameter_groups(network, self)
        if self.optimizer == "adamw":
            return torch.optim.AdamW(groups, lr=self.learning_rate)
        return torch.optim.SGD(groups, lr=self.learning_rate, momentum=self.momentum, nesterov=True)

    def schedule(self, optimizer: Optimizer, *, steps: int, warmup_steps: int) -> LRScheduler:
        """Learning rate a step: linear from near zero to its peak in ``warmup_steps``, then half a cosine, over at ``steps``."""
        cosine = CosineAnnealingLR(optimizer, T_max=max(1, steps - warmup_steps), eta_min=self.final_learning_rate)
        if warmup_steps == 0:
            return cosine
        rise = LinearLR(optimizer, start_factor=1 / (warmup_steps + 1), total_iters=warmup_steps)
        return SequentialLR(optimizer, [rise, cosine], milestones=[warmup_steps])


def parameter_groups(network: nn.Module, settings: Optimization) -> list[dict[str, Any]]:
    """The trained parameters by weight decay and learning rate; vectors, which norms and biases are, do not decay."""
    named = getattr(network, "no_weight_decay", None)
    kept = set(named()) if callable(named) else set()
    generating = generating_parameters(network)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decay = settings.weight_decay if parameter.ndim > 1 and name not in kept else 0.0
            scale = settings.generator_learning_rate_scale if name in generating else 1.0
            groups.setdefault((decay, scale * settings.learning_rate), []).append(parameter)
    return [{"params": members, "weight_decay": decay, "lr": rate} for (decay, rate), members in groups.items()]
