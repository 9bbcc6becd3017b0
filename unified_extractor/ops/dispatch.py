"""The list of backends: which one runs a call, and why not the others."""

from typing import Literal

from torch import Tensor

from unified_extractor.names import did_you_mean
from unified_extractor.ops.autocast import autocasts, full_precision
from unified_extractor.ops.backends.base import Backend
from unified_extractor.ops.backends.compiled import Compiled
from unified_extractor.ops.backends.eager import Eager
from unified_extractor.ops.backends.reference import Reference
from unified_extractor.ops.backends.triton import Triton
from unified_extractor.ops.call import Call
from unified_extractor.ops.dynamic_kernels import is_scaled_to_nothing
from unified_extractor.ops.rewrites import with_stored_kernel

KernelMemory = Literal["auto", "store", "recompute"]
KERNEL_MEMORY: tuple[KernelMemory, ...] = ("auto", "store", "recompute")

BACKENDS: list[Backend] = [Triton(), Compiled(), Eager(), Reference()]
"""All backends, the fastest first."""


def backends() -> dict[str, str | None]:
    """Return the names of all backends, each with None if it is usable on this machine, else with the reason why it is not."""
    return {backend.name: backend.unusable_because() for backend in reversed(BACKENDS)}


def run(call: Call, backend: str | None, kernel_memory: KernelMemory = "auto") -> Tensor:
    """Choose a backend, decide whether it stores a computed kernel, and run the call.

    Args:
        call: the checked call.
        backend: the name of one, which is never replaced by another; None chooses the first that is fast.
        kernel_memory: see :func:`unified_extractor.extract`.

    Raises:
        ValueError: no backend has this name, or it cannot run this call here, or as ``kernel_memory`` demands.
    """
    chosen = _choose(call, backend, kernel_memory)
    if call.computed_kernel is not None and not _recomputes(chosen, call, kernel_memory):
        call = _stored(chosen, call)
    if not autocasts(call.x):
        return chosen.run(call)
    with full_precision(call.x):
        return chosen.run(call)


def _choose(call: Call, backend: str | None, kernel_memory: KernelMemory) -> Backend:
    if backend is None:
        recomputing = kernel_memory == "recompute" and call.computed_kernel is not None
        return next(b for b in BACKENDS if _is_chosen(b, call, recomputing))
    named = next((b for b in BACKENDS if b.name == backend), None)
    if named is None:
        names = tuple(b.name for b in reversed(BACKENDS))
        raise ValueError(f"backend must be None or one of {names}, got {backend!r}{did_you_mean(backend, names)}")
    if reason := named.unusable_because() or named.refuses_because(call):
        raise ValueError(f"backend={backend!r} is not usable here: {reason}")
    if kernel_memory == "recompute" and call.computed_kernel is not None:
        able = [b.name for b in BACKENDS if b.recomputes(call, demanded=True)]
        if not able or backend in able or call.channel_kernel is not None:
            return named
        raise ValueError(
            f"kernel_memory='recompute' needs a backend that does not store the kernel, {' or '.join(map(repr, able))}, "
            f"got backend={backend!r}"
        )
    return named


def _is_chosen(backend: Backend, call: Call, recomputing: bool) -> bool:
    """Return whether the backend runs a call for which none is named; ``recomputing``: memory counts more than time."""
    fast = backend.is_fast(call, recomputing=recomputing)
    return fast and backend.refuses_because(call) is None and backend.unusable_because() is None


def _recomputes(backend: Backend, call: Call, kernel_memory: KernelMemory) -> bool:
    kernel = call.computed_kernel
    assert kernel is not None
    if kernel_memory == "store":
        return False
    if call.channel_kernel is not None:
        return False  # the images become groups of channels, each with a feature of its own
    if call.combine == "residual" and (kernel.normalization != "none" or is_scaled_to_nothing(kernel, call.x)):
        return False  # 1 + D has no such form
    return backend.recomputes(call, demanded=kernel_memory == "recompute")


def _stored(backend: Backend, call: Call) -> Call:
    """Compute the dynamic kernel of a call and store it; autocast acts on it as on any layer."""

    def products(similarity: Call) -> Tensor:
        with full_precision(similarity.x):
            return backend.run(similarity)

    stored = with_stored_kernel(call, products)
    assert isinstance(stored.dynamic_kernel, Tensor)
    return stored._replace(dynamic_kernel=stored.dynamic_kernel.to(call.x.dtype))
