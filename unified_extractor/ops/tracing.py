"""Programs that are recorded or transformed: which of them a registered operator can be part of."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch._C._functorch import TransformType
from torch.autograd import forward_ad

_PLAIN = (Tensor, torch.nn.Parameter, type(None))


def is_recorded() -> bool:
    """Return whether a program is being recorded that runs without this package: exported, or traced."""
    # PyTorch 2.11's torch.compiler.is_exporting() is true in torch.compile, too.
    return torch.compiler._is_exporting_flag or torch.jit.is_tracing()


def with_plain_strides(x: Tensor) -> Tensor:
    """Return a tensor as it is, in a recorded program contiguous: an exporter guards other strides, and cannot prove it for all sizes."""
    return x.contiguous() if is_recorded() else x


def opaque_because() -> str | None:
    """Return why a registered operator cannot run here and now, whatever the tensors; None if it can."""
    if is_recorded():
        return "an exported program must run without this package"
    if _is_transformed() or _has_tangents():
        return "torch.func transforms and forward-mode differentiation have no rule for it"
    return None


def needs_plain_operations() -> bool:
    """Return whether a call must consist of torch's own operations: in a recorded program, and where each needs more rules than a
    gradient.
    """
    return is_recorded() or needs_more_than_gradients()


def needs_more_than_gradients() -> bool:
    """Return whether operations need another rule than that of their gradient: under ``torch.func.vmap``, in forward-mode differentiation.

    Under ``torch.func.grad``, ``vjp`` and ``jacrev`` a hand-written gradient serves, which saves less between the passes.
    """
    return _has_tangents() or (_is_transformed() and _is_more_than_gradients())


def is_batched(tensor: Tensor) -> bool:
    """Return whether a tensor is that of a ``torch.func.vmap``."""
    return torch._C._functorch.is_batchedtensor(tensor)


def is_watched(tensors: Iterable[Tensor | None]) -> bool:
    """Return whether operators must go through torch's dispatcher, since someone acts on them on the way.

    These are a compiler, a mode such as that of fake tensors or of a counter of operations, a profiler, or a subclass of tensors.
    """
    if (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._ops._len_torch_dispatch_stack_pre_dispatch() > 0
        or torch._C._autograd._profiler_enabled()
    ):
        return True
    for value in tensors:  # noqa: SIM110 - a generator for any() takes twice the time
        if type(value) not in _PLAIN:
            return True
    return False


def _is_transformed() -> bool:
    """Return whether a transform of ``torch.func`` is on its way; ``torch.compile`` handles those inside a compiled function."""
    return not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None


def _is_more_than_gradients() -> bool:
    return any(transform.key() != TransformType.Grad for transform in torch._C._functorch.get_interpreter_stack())


def _has_tangents() -> bool:
    """Return whether forward-mode differentiation is on."""
    return not torch.compiler.is_compiling() and forward_ad._current_level >= 0


def returned(y: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a result of a function with a hand-written gradient in a dtype; in torch.compile always as a copy.

    PyTorch 2.11 compiles a result that was changed in place without a gradient.
    """
    return y.to(dtype, copy=torch.compiler.is_compiling())
