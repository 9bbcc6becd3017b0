"""One line on stderr for a user's mistake, and which errors are one."""

import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from unified_extractor.data import DataError
from unified_extractor.training.errors import ConfigurationError


def refuse(reason: str) -> int:
    """Print ``uniex: error: reason`` and return the exit code of a wrong call."""
    print(f"uniex: error: {reason}", file=sys.stderr)
    return 2


def users_mistake(error: BaseException | None) -> str | None:
    """The complaint about the user's settings that caused this error, if one did: others may have wrapped it."""
    while error is not None:
        if isinstance(error, ConfigurationError):
            return str(error)
        if isinstance(error, DataError):  # a worker's comes with its traceback, the reason last
            return "data: " + str(error).strip().splitlines()[-1].rsplit("DataError: ", 1)[-1]
        error = error.__cause__
    return None


def unreadable_config(arguments: Sequence[str]) -> str | None:
    """What is wrong with a ``--config`` file that is not there or not YAML: the parser's own message does not name the file."""
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
