"""Which backend runs a call, and why not the others."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from unified_extractor.ops.autocast import is_recorded


@dataclass(frozen=True)
class Backend:
    """An implementation of the operator."""

    load: Callable[[], Any]
    """Import and return the module with ``extract``, ``generalized_unfold`` and ``similarity``."""
    unusable: Callable[[], str | None] = lambda: None
    """None where the backend runs on this machine, else the reason it does not."""
    refuses: Callable[[Tensor], str | None] = lambda x: None
    """None if it runs calls with this image, here and now, else the reason it does not."""


def _reference() -> Any:
    from unified_extractor.ops.backends import reference

    return reference


def _eager() -> Any:
    from unified_extractor.ops.backends import eager

    return eager


def _compiled() -> Any:
    from unified_extractor.ops.backends import compiled

    return compiled


def _triton() -> Any:
    from unified_extractor.ops.backends import triton

    return triton


def _compiled_refuses(x: Tensor) -> str | None:
    if x.device.type != "cpu":
        return f"it runs on the CPU, x is on {x.device}"
    return _is_opaque()


def _triton_refuses(x: Tensor) -> str | None:
    if _interpreted():
        if x.device.type != "cpu":
            return f"Triton's interpreter (TRITON_INTERPRET) runs on the CPU, x is on {x.device}"
    elif x.device.type != "cuda":
        return f"it runs on GPUs, x is on {x.device}"
    return _is_opaque()


def _is_opaque() -> str | None:
    """Why a registered operator cannot run here and now, whatever the tensors."""
    if is_recorded():
        return "an exported program must run without this package"
    if not torch.compiler.is_compiling() and (_transformed() or forward_ad._current_level >= 0):
        return "torch.func transforms and forward-mode differentiation have no rule for it"
    return None


def _transformed() -> bool:
    return torch._C._functorch.peek_interpreter_stack() is not None


def _without_numba() -> str | None:
    try:
        import numba
    except ImportError as error:  # missing, or made for another numpy
        return f"it needs numba: pip install 'unified-extractor[compiled]' ({error})"
    return "NUMBA_DISABLE_JIT is set" if getattr(numba.config, "DISABLE_JIT", 0) else None


def _without_triton() -> str | None:
    try:
        import triton
    except ImportError as error:
        return f"it needs triton, which PyTorch brings for Linux: pip install triton ({error})"
    if _interpreted():
        return None
    if torch.version.hip:
        return "its kernels are written for NVIDIA GPUs, this PyTorch is built for AMD's"
    if torch.cuda.is_available():
        return None
    return (
        f"there is no GPU that PyTorch can use (triton {triton.__version__} is installed; TRITON_INTERPRET=1 runs it on the CPU)"
    )


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0") in ("1", "true", "on", "yes", "y")


_BACKENDS = {
    "reference": Backend(_reference),
    "eager": Backend(_eager),
    "compiled": Backend(_compiled, _without_numba, _compiled_refuses),
    "triton": Backend(_triton, _without_triton, _triton_refuses),
}
_WORTH_COMPILING = 64
"""The least work, as measured on maps of 7 to 56 pixels with 1 to 64 channels that share a kernel; below, moving data outweighs it."""


def backends() -> dict[str, str | None]:
    """The names of all backends, each with None if it is usable on this machine, else the reason why it is not."""
    return {name: backend.unusable() for name, backend in _BACKENDS.items()}


def choose(name: str | None, x: Tensor, work: int) -> Any:
    """The named backend or, for None, the fastest that runs the call.

    Args:
        name: a key of :func:`backends`, or None.
        x: the image.
        work: how much there is to do for what is brought into registers at once.

    Raises:
        ValueError: no backend has this name, or it cannot run this; a named backend is never replaced by another.
    """
    if name is None:
        fast = "triton" if x.device.type == "cuda" else "compiled"  # Triton's interpreter is for tests
        worth = work > 0 if fast == "triton" else work >= _WORTH_COMPILING
        name = fast if worth and _BACKENDS[fast].refuses(x) is None and _BACKENDS[fast].unusable() is None else "eager"
    elif not isinstance(name, str) or name not in _BACKENDS:
        raise ValueError(f"backend must be None or one of {tuple(_BACKENDS)}, got {name!r}")
    elif reason := _BACKENDS[name].unusable() or _BACKENDS[name].refuses(x):
        raise ValueError(f"backend={name!r} is not usable here: {reason}")
    return _BACKENDS[name].load()
