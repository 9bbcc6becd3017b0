"""Finding the extractors of a network, and running it without changing it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from unified_extractor.spec import ExtractorSpec


def extractors(network: nn.Module) -> dict[str, Any]:
    """The extractor layers of a network by name, in order: modules with a spec that generate kernels and offsets by it."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(getattr(module, "spec", None), ExtractorSpec) and hasattr(module, "generate")
    }


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every module is in its own mode again."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
