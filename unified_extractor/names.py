"""Names that a user chooses from a set, and the nearest one to a name that is not in it."""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """Return ``", did you mean softmax?"`` for the name ``softmx``, or ``""`` where no known name is near: the end of an error's message.

    Case, hyphens and underscores do not count.
    """
    plain = {_plain(one): one for one in known}
    nearest = difflib.get_close_matches(_plain(name), plain, n=1)
    return f", did you mean {plain[nearest[0]]}?" if nearest else ""


def suggesting_arguments(function: Function) -> Function:
    """Return a function, or a class's ``__init__``, with an error that suggests the nearest argument for an unknown one.

    The signature stays. The names are looked at only once a call has failed, so that one that does not fail takes no longer.
    """
    known = [name for name in inspect.signature(function).parameters if name != "self"]

    @functools.wraps(function)
    def checked(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except TypeError:
            unknown = [name for name in options if name not in known]
            if not unknown:
                raise
            nearest = did_you_mean(unknown[0], known) or f", it has {', '.join(known)}"
            called = function.__qualname__.removesuffix(".__init__")
        raise TypeError(f"{called} has no argument {unknown[0]!r}{nearest}")

    return checked  # type: ignore[return-value]


def no_attribute(module: str, name: str, known: Iterable[str]) -> AttributeError:
    """Return the error for a name that a module does not have, with the nearest of those that it has."""
    return AttributeError(f"module {module!r} has no attribute {name!r}{did_you_mean(name, known)}")


def _plain(name: object) -> str:
    return str(name).lower().replace("-", "_")
