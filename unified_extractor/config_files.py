"""The configuration files of a command line, read before anything that takes seconds to import."""

from collections.abc import Sequence
from pathlib import Path

import yaml


def unreadable_config(arguments: Sequence[str]) -> str | None:
    """Return the message for a ``--config`` file that is missing or not YAML, or ``None``: the parser's own message does not
    name the file."""
    for option, value in zip(arguments, [*arguments[1:], ""], strict=True):
        if option in ("--config", "-c") or option.startswith("--config="):
            path = Path(option.removeprefix("--config=") if "=" in option else value)
            try:
                content = yaml.safe_load(path.read_text())
            except OSError as error:
                return f"config: {path}: {error.strerror}"
            except yaml.MarkedYAMLError as error:
                line = error.problem_mark.line + 1 if error.problem_mark else "?"
                return f"config: {path} is not valid YAML, line {line}: {error.problem}"
            except (yaml.YAMLError, UnicodeDecodeError):
                return f"config: {path} is not a YAML file"
            if not isinstance(content, dict):
                return f"config: {path} must hold 'key: value' lines"
    return None
