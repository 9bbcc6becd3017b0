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
    """Return the function with an error that suggests the nearest argument for an unknown one; the signature stays."""
    known = inspect.signature(function).parameters

    @functools.wraps(function)
    def checked(*arguments: Any, **options: Any) -> Any:
        for name in options:
            if name not in known:
                nearest = did_you_mean(name, known) or f", it has {', '.join(known)}"
                raise TypeError(f"{function.__name__} has no argument {name!r}{nearest}")
        return function(*arguments, **options)

    return checked  # type: ignore[return-value]


def _plain(name: object) -> str:
    return str(name).lower().replace("-", "_")
