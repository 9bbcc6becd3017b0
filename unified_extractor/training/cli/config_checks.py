"""Checks of the dataclasses in a parsed configuration, made before anything is built so that an error can name its path."""

from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace

from unified_extractor.options import config_class, imported, options
from unified_extractor.training.errors import ConfigurationError


def check_config_objects(config: Namespace, groups: Mapping[str, type], path: str = "") -> None:
    """Raise ``ConfigurationError`` for the first dataclass in a configuration whose fields contradict each other.

    ``groups`` are the classes of the top-level groups, whose arguments stand in the file without a ``class_path``.
    """
    class_path, arguments = config.get("class_path"), config.get("init_args")
    if isinstance(class_path, str) and isinstance(arguments, Namespace):
        config, path = arguments, f"{path}.init_args"
        owner = imported(class_path)
    else:
        owner = groups.get(path)
    hints = {name: option.annotation for name, option in options(owner).items()} if owner else {}
    for key, value in vars(config).items():
        here = f"{path}.{key}" if path else key
        kind = config_class(hints.get(key))
        if kind is not None and kind is hints[key] and not isinstance(value, Namespace | kind):  # which the parser lets through
            raise ConfigurationError(f"{here}: expected a mapping or the name of a file, got {value!r}")
        if kind is None and isinstance(value, Namespace):
            check_config_objects(value, groups, here)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if kind is not None:
                    _check(kind, item, f"{here}[{index}]")
                elif isinstance(item, Namespace):
                    check_config_objects(item, groups, f"{here}[{index}]")
        elif kind is not None:
            _check(kind, value, here)


def _check(kind: type[Any], value: Any, path: str) -> None:
    if isinstance(value, Namespace):
        try:
            kind(**_without_files(value.as_dict()))
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"{path}: {error}") from error


def _without_files(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields without the names of the files that they were read from."""
    return {
        name: _without_files(value) if isinstance(value, Mapping) else value
        for name, value in fields.items()
        if not name.startswith("__")
    }
