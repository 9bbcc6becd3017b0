"""Counts of elementwise operations, which some papers add to the multiply-adds and others do not."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)
_ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid)


class Elementwise:
    """A running count of elementwise operations."""

    total = 0


@contextmanager
def counting_elementwise(network: nn.Module) -> Iterator[Elementwise]:
    """Count the elementwise operations of calls inside the context: 2 a value for a norm, 1 for an activation module, 1 for a
    bias.

    Only modules are counted: softmax, additions and pooling are not.
    """
    found = Elementwise()

    def count(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.total += _operations(module) * output.numel()

    handles = [module.register_forward_hook(count) for module in network.modules() if _operations(module)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _operations(module: nn.Module) -> int:
    """Return the number of elementwise operations for each value of the module's output."""
    if isinstance(module, _NORMS):
        return 2
    biased = isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None
    return int(biased or isinstance(module, _ACTIVATIONS))
