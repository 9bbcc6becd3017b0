"""Programs that are recorded or transformed: which of them a registered operator can be part of."""

import torch
from torch import Tensor
from torch.autograd import forward_ad


def is_recorded() -> bool:
    """Return whether a program is being recorded that runs without this package: exported, or traced."""
    # PyTorch 2.11's torch.compiler.is_exporting() is true in torch.compile, too.
    return torch.compiler._is_exporting_flag or torch.jit.is_tracing()


def opaque_because() -> str | None:
    """Return why a registered operator cannot run here and now, whatever the tensors; None if it can."""
    if is_recorded():
        return "an exported program must run without this package"
    if not torch.compiler.is_compiling() and (_is_transformed() or forward_ad._current_level >= 0):
        return "torch.func transforms and forward-mode differentiation have no rule for it"
    return None


def _is_transformed() -> bool:
    return torch._C._functorch.peek_interpreter_stack() is not None


def returned(y: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a result of a function with a hand-written gradient in a dtype; in torch.compile always as a copy.

    PyTorch 2.11 compiles a result that was changed in place without a gradient.
    """
    return y.to(dtype, copy=torch.compiler.is_compiling())
