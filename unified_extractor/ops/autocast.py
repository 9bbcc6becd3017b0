"""Autocast: tensors in its dtype at the door, full precision inside, since a backend chooses the precision of its sums itself."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any

import torch
from torch import Tensor

_AUTOCASTING = [
    device for device in ("cpu", "cuda", "xpu", "mps", "hpu", "mtia", "xla") if torch.amp.is_autocast_available(device)
]
"""The devices that have autocast. Asked once: torch.compile does not trace the question in every PyTorch."""
_LOWERED = (torch.float32, torch.float16, torch.bfloat16)
"""The dtypes that autocast changes; double precision stays."""


def autocasts(x: Tensor) -> bool:
    """Return whether autocast is on for the device of ``x``."""
    device = x.device.type
    return device in _AUTOCASTING and torch.is_autocast_enabled(device)


def autocast_dtype(x: Any) -> torch.dtype | None:
    """Return autocast's dtype for the device of ``x``, None where autocast is off or ``x`` is no tensor."""
    return torch.get_autocast_dtype(x.device.type) if isinstance(x, Tensor) and autocasts(x) else None


def lowered(value: Any, dtype: torch.dtype | None) -> Any:
    """Return a tensor in autocast's dtype; anything else, and double precision, as it is."""
    return value.to(dtype) if dtype is not None and isinstance(value, Tensor) and value.dtype in _LOWERED else value


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context without autocast for the device of ``x``."""
    return torch.autocast(x.device.type, enabled=False) if autocasts(x) else nullcontext()


def full_precision_backward(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a backward pass, which may run inside an autocast region, so that it runs without autocast."""

    @wraps(backward)
    def run(ctx: Any, gradient: Tensor) -> Any:
        with full_precision(gradient):
            return backward(ctx, gradient)

    return run
