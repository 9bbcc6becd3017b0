"""The errors of a run that are not bugs."""

import types
from typing import Any

from lightning.pytorch.utilities.exceptions import MisconfigurationException

_OWN = __name__.partition(".")[0]
_PLAIN = (ValueError, RuntimeError, MisconfigurationException)
"""Errors whose message says what is wrong without the name of their class."""


class ConfigurationError(ValueError):
    """Settings that cannot work. The message is one line that starts with the path of the setting in the configuration."""


class DivergedError(RuntimeError):
    """A loss that is not finite. The message is one line that names the step and the first layer with such a value."""


def is_bug(error: Exception, part: Any) -> bool:
    """Return True if an error of a part of this package is one that no setting should raise."""
    kind = part if isinstance(part, type | types.FunctionType) else type(part)
    return kind.__module__.partition(".")[0] == _OWN and not isinstance(error, _PLAIN)


def reason_of(error: Exception) -> str:
    """Return the message of an error in a line, after the name of its class unless that says nothing."""
    text = " ".join(str(error).split())
    return text if text and isinstance(error, _PLAIN) else f"{type(error).__name__}: {text}".removesuffix(": ")
