"""The configuration files of a command line, read before anything that takes seconds to import."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from unified_extractor.names import did_you_mean
from unified_extractor.recipes import as_file, recipe_names

_CONFIG = ("--config", "-c")


def data_class(arguments: Sequence[str]) -> str | None:
    """Return the class of the data that a command line of ``uniex fit`` names last, by itself or in a file; ``None`` without one."""
    found: str | None = None
    for option, value in _options(arguments):
        try:
            if option in _CONFIG:
                content = yaml.safe_load(Path(value).read_text())
                given = _class_path(content.get("data"), Path(value).parent) if isinstance(content, dict) else None
            elif option == "--data":
                given = _class_path(yaml.safe_load(value), Path())
            else:
                given = value if option == "--data.class_path" else None
        except (OSError, UnicodeDecodeError, yaml.YAMLError):  # which the parser refuses
            given = None
        found = given or found
    return found


def _class_path(value: object, folder: Path) -> str | None:
    """Return the class of an object: its ``class_path``, that in the file that it names, or itself."""
    if isinstance(value, str) and (folder / value).is_file():
        value = yaml.safe_load((folder / value).read_text())
    found = value.get("class_path") if isinstance(value, dict) else value
    return found if isinstance(found, str) else None


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield every option with its value, given as ``--option value`` or ``--option=value``."""
    for option, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = option.partition("=")
        if name.startswith("-"):
            yield name, value if equals else following


def with_recipes(arguments: Sequence[str]) -> list[str]:
    """Return a command line with the files of recipes for their names: ``--config digits/unified`` names a file anywhere."""
    words, previous = [], ""
    for word in arguments:
        option, equals, value = word.partition("=")
        if previous in _CONFIG:
            words.append(str(as_file(word)))
        else:
            words.append(f"{option}={as_file(value)}" if equals and option in _CONFIG else word)
        previous = word
    return words


def unreadable_config(arguments: Sequence[str]) -> str | None:
    """Return the message for a ``--config`` file that is missing or not YAML, or ``None``: the parser's own message does not
    name the file."""
    for option, value in _options(arguments):
        if option in _CONFIG:
            path = Path(value)
            try:
                content = yaml.safe_load(path.read_text())
            except OSError as error:
                known = did_you_mean(value, recipe_names()) or "; uniex recipes lists those that come with the package"
                return f"config: {path}: {error.strerror}{known if isinstance(error, FileNotFoundError) else ''}"
            except yaml.MarkedYAMLError as error:
                line = error.problem_mark.line + 1 if error.problem_mark else "?"
                return f"config: {path} is not valid YAML, line {line}: {error.problem}"
            except (yaml.YAMLError, UnicodeDecodeError):
                return f"config: {path} is not a YAML file"
            if not isinstance(content, dict):
                return f"config: {path} must hold 'key: value' lines"
    return None
