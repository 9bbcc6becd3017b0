"""How hand-written gradients meet autocast."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any

import torch
from torch import Tensor


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
