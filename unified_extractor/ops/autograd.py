"""How hand-written gradients and registered operators meet torch: autocast, and programs that are recorded to run elsewhere."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def is_recorded() -> bool:
    """Whether a program is being made that runs without this package: exported, or traced."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


def autocasts(x: Tensor) -> bool:
    """Whether autocast is on for the device of ``x``."""
    device = x.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """No autocast inside: a backend chooses the precision of its sums itself."""
    return torch.autocast(x.device.type, enabled=False) if autocasts(x) else nullcontext()


def full_precision_backward(backward: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a backward pass, which may run inside an autocast region."""

    @wraps(backward)
    def run(ctx: Any, gradient: Tensor) -> Any:
        with full_precision(gradient):
            return backward(ctx, gradient)

    return run
