"""How hand-written gradients and registered operators meet torch: autocast, and programs that are recorded to run elsewhere."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any

import torch
from torch import Tensor

_AUTOCASTING = [
    device for device in ("cpu", "cuda", "xpu", "mps", "hpu", "mtia", "xla") if torch.amp.is_autocast_available(device)
]
"""Asked once: torch.compile does not trace the question in every PyTorch."""


def is_recorded() -> bool:
    """Whether a program is being made that runs without this package: exported, or traced."""
    return (
        torch.compiler._is_exporting_flag or torch.jit.is_tracing()
    )  # PyTorch 2.11's is_exporting() is true in torch.compile, too


def autocasts(x: Tensor) -> bool:
    """Whether autocast is on for the device of ``x``."""
    return x.device.type in _AUTOCASTING and torch.is_autocast_enabled(x.device.type)


def returned(y: Tensor, dtype: torch.dtype) -> Tensor:
    """What a function with a hand-written gradient returns, in a dtype: PyTorch 2.11 compiles what it changed in place without gradient."""
    return y.to(dtype, copy=torch.compiler.is_compiling())


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
