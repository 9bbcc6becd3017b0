"""Which parameters decay, and how the learning rate moves."""

from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters with and without weight decay: norms and biases, all that is a vector, have none."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def warmup_cosine(optimizer: Optimizer, *, steps: int, warmup_steps: int) -> LRScheduler:
    """Learning rate a step: linear from near zero to its value in ``warmup_steps``, then half a cosine down to zero at ``steps``."""
    cosine = CosineAnnealingLR(optimizer, T_max=max(1, steps - warmup_steps))
    if warmup_steps == 0:
        return cosine
    rise = LinearLR(optimizer, start_factor=1 / (warmup_steps + 1), total_iters=warmup_steps)
    return SequentialLR(optimizer, [rise, cosine], milestones=[warmup_steps])
