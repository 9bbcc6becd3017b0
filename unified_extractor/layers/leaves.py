"""Modules that tracers take as a whole, since their way depends on sizes: a call of the module stands in the graph."""

from typing import Any, NoReturn

from torch import Tensor, nn
from torch.fx import Proxy


def traced_as_leaf(module: nn.Module, *inputs: Tensor | Proxy | None) -> Any:
    """Return the node of a call of this module in the graph of ``torch.fx`` where it is traced, else None."""
    proxy = next((value for value in inputs if isinstance(value, Proxy)), None)
    if proxy is None:
        return None
    return proxy.tracer.create_proxy("call_module", proxy.tracer.path_of_module(module), inputs, {})  # type: ignore[attr-defined]


def refuse_scripting(module: nn.Module) -> NoReturn:
    """Raise ``NotImplementedError``: the module is Python that ``torch.jit.script`` does not know."""
    raise NotImplementedError(
        f"torch.jit.script does not compile {type(module).__name__}: use torch.export.export, or torch.jit.trace, whose program takes "
        "other sizes too"
    )
