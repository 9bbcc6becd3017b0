"""Operations that happen a value at a time: some papers count them as multiply-adds, others do not."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)
_ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid)


class Elementwise:
    """A running count."""

    total = 0


@contextmanager
def counting_elementwise(network: nn.Module) -> Iterator[Elementwise]:
    """Inside, calls of the network are counted: 2 operations a value of a norm, 1 of an activation module, 1 for a bias.

    Only modules are seen: a softmax or an addition is not counted, nor is pooling.
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
    """How many a value of the module's output."""
    if isinstance(module, _NORMS):
        return 2
    biased = isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None
    return int(biased or isinstance(module, _ACTIVATIONS))
