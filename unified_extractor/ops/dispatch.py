"""Which backend runs a call, and why not the others."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Backend:
    """An implementation of the operator."""

    load: Callable[[], Any]
    """Import and return the module with ``extract``, ``generalized_unfold`` and ``similarity``."""
    unusable: Callable[[], str | None]
    """None where the backend runs on this machine, else the reason it does not."""


def _reference() -> Any:
    from unified_extractor.ops import reference

    return reference


def _eager() -> Any:
    from unified_extractor.ops.backends import eager

    return eager


def _anywhere() -> str | None:
    return None


_BACKENDS = {"reference": Backend(_reference, _anywhere), "eager": Backend(_eager, _anywhere)}
_DEFAULT = "eager"


def backends() -> dict[str, str | None]:
    """The names of all backends, each with None if it is usable on this machine, else the reason why it is not."""
    return {name: backend.unusable() for name, backend in _BACKENDS.items()}


def choose(name: str | None) -> Any:
    """The named backend, or the default for None.

    Raises:
        ValueError: no backend has this name, or it cannot run here; a named backend is never replaced by another.
    """
    name = _DEFAULT if name is None else name
    if not isinstance(name, str) or name not in _BACKENDS:
        raise ValueError(f"backend must be None or one of {tuple(_BACKENDS)}, got {name!r}")
    if reason := _BACKENDS[name].unusable():
        raise ValueError(f"backend={name!r} is not usable here: {reason}")
    return _BACKENDS[name].load()
