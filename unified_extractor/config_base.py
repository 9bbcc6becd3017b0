"""The base of the config objects: frozen dataclasses that check the types of their fields and name mistakes in a user's words."""

import functools
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin

from unified_extractor.names import did_you_mean


class Config:
    """A config object: it checks types, and turns mappings (from YAML or a checkpoint) into nested objects."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for item in fields(self):  # type: ignore[arg-type]
            value = _converted(getattr(self, item.name), hints[item.name], f"{type(self).__name__}.{item.name}")
            object.__setattr__(self, item.name, value)
        self._check()

    def _check(self) -> None:
        """Raise ``ValueError`` for values that contradict each other."""

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Take the fields that were pickled; those that an earlier version did not have are at their defaults."""
        _check_fields(type(self), state, f"pickled {type(self).__name__}", ValueError)
        for item in fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, item.name, state[item.name] if item.name in state else _default(item))

    def __repr__(self) -> str:
        """Return the call that makes this object, without arguments at their defaults."""
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.changed().items())})"

    def changed(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != _default(f)}  # type: ignore[arg-type]


def naming_unknown_fields(config: type[Config]) -> None:
    """Let the constructor of a config class suggest the nearest field for one that it does not have; its signature stays."""
    init = config.__init__

    @functools.wraps(init)
    def checked(self: Config, *positional: Any, **values: Any) -> None:
        if positional:
            raise TypeError(f"{config.__name__} takes its fields by name, got {positional[0]!r} without one")
        _check_fields(config, values, config.__name__, TypeError)
        init(self, **values)

    config.__init__ = checked  # type: ignore[method-assign, assignment]


def _check_fields(config: type, values: Mapping[Any, Any], name: str, kind: type[Exception]) -> None:
    """Raise an exception of a kind for the first value that is no field of a config class; ``name`` is what has the values."""
    known = sorted(f.name for f in fields(config))
    if unknown := sorted(set(values) - set(known), key=str):
        nearest = did_you_mean(unknown[0], known) or f", it has {', '.join(known)}"
        raise kind(f"{name} has no field {unknown[0]!r}{nearest}")


def _default(item: "Field[Any]") -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def _converted(value: Any, hint: Any, name: str) -> Any:
    """Return the value as the annotated type: lists become tuples, mappings config objects. Raise ``TypeError``, ``ValueError``."""
    if is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, Mapping):
            _check_fields(hint, value, name, ValueError)
            return hint(**value)
        if isinstance(value, hint):
            return value
    elif get_origin(hint) in (types.UnionType, typing.Union):
        for option in get_args(hint):
            try:
                return _converted(value, option, name)
            except (TypeError, ValueError):
                continue
        choices = [choice for option in get_args(hint) if get_origin(option) is Literal for choice in get_args(option)]
        if isinstance(value, str) and choices:
            raise ValueError(f"{name} must be {_readable(hint)}, got {value!r}{did_you_mean(value, choices)}")
    elif get_origin(hint) is Literal:
        if isinstance(value, str) and value in get_args(hint):
            return value
        if isinstance(value, str):
            raise ValueError(f"{name} must be one of {get_args(hint)}, got {value!r}{did_you_mean(value, get_args(hint))}")
    elif get_origin(hint) is tuple:
        if isinstance(value, list | tuple) and len(value) == 2:
            return tuple(_converted(v, int, name) for v in value)
    elif hint is types.NoneType:
        if value is None:
            return None
    elif type(value) is hint or (hint is float and type(value) is int):
        return hint(value)
    raise TypeError(f"{name} must be {_readable(hint)}, got {value!r} of type {type(value).__name__}")


def _readable(hint: Any) -> str:
    """Return a type in a user's words."""
    if get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join(_readable(option) for option in get_args(hint))
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    return getattr(hint, "__name__", str(hint)) if get_origin(hint) is None else str(hint).replace("typing.", "")
