"""Batching rules: under a ``vmap`` an operator, or a backward pass, runs once for each entry of the mapped axis.

The gradient of a map that was computed before is asked for like this: a Jacobian row by row, in one batched backward pass. There are
two kinds of ``vmap``: that of ``torch.func``, and an older one with few rules of its own, by which
``torch.autograd.grad(is_grads_batched=True)`` and ``torch.autograd.functional.jacobian(vectorize=True)`` batch the backward pass.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor

_is_older = torch._C._functorch.is_legacy_batchedtensor


def register_loops(operator: Any, library: torch.library.Library) -> None:
    """Give an operator that returns a tensor or a list of tensors its rules, one for each kind of ``vmap``."""

    def rule(info: Any, in_dims: Sequence[Any], *arguments: Any) -> tuple[Any, Any]:
        result = _loop(operator, arguments, in_dims, info.batch_size)
        return result, [0] * len(result) if isinstance(result, list) else 0

    name = operator._schema.name
    torch.library.register_vmap(name, rule, lib=library)
    library.impl(name.split("::")[1], lambda *arguments: _older_rule(operator, arguments), "Batched")


def batched_backward(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the backward pass of an ``autograd.Function``, so that it runs once for each entry of the older kind of ``vmap``."""

    @wraps(backward)
    def run(ctx: Any, gradient: Tensor, *others: Tensor) -> Any:
        if torch.compiler.is_compiling() or not _is_older(gradient):
            return backward(ctx, gradient, *others)
        return _older_rule(lambda *gradients: backward(ctx, *gradients), (gradient, *others))

    return run


def _older_rule(function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """Return the results of a function for tensors of the older kind of ``vmap``."""
    level = torch._C._vmapmode_increment_nesting() - 1  # no other function tells it
    torch._C._vmapmode_decrement_nesting()
    in_dims = [0 if isinstance(a, Tensor) and _is_older(a) else None for a in arguments]
    whole = [a if dim is None else torch._remove_batch_dim(a, level, 0, 0) for a, dim in zip(arguments, in_dims, strict=True)]
    size = next(a.shape[0] for a, dim in zip(whole, in_dims, strict=True) if dim is not None)
    result = _loop(function, whole, in_dims, size)
    if isinstance(result, Tensor):
        return torch._add_batch_dim(result, 0, level)
    return type(result)(None if part is None else torch._add_batch_dim(part, 0, level) for part in result)


def _loop(function: Callable[..., Any], arguments: Sequence[Any], in_dims: Sequence[Any], size: int) -> Any:
    """Return the stacked results of a function for each index of the mapped axes: a tensor, or a list or tuple, as it returns them."""
    results = []
    for i in range(size):
        entry = [a.select(dim, i) if isinstance(dim, int) else a for a, dim in zip(arguments, in_dims, strict=True)]
        results.append(function(*entry))
    if isinstance(results[0], Tensor):
        return torch.stack(results)
    return type(results[0])(None if parts[0] is None else torch.stack(parts) for parts in zip(*results, strict=True))
