"""The extractors of a network, and running a network without changing it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from unified_extractor.spec import ExtractorSpec


def extractors(network: nn.Module) -> dict[str, Any]:
    """Return the extractor layers of a network by name, in order: modules with a spec that generate kernels and offsets from
    it."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(getattr(module, "spec", None), ExtractorSpec) and hasattr(module, "generate")
    }


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Put the network into eval mode inside the context. Afterwards every module has its own mode again."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
