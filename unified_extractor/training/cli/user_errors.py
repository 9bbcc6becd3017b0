"""The errors that are a user's mistake, each as one line on stderr."""

import argparse
import errno
import sys
from collections.abc import Mapping

import torch.distributed
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from unified_extractor.data import DataError
from unified_extractor.training.cli.parser_errors import one_line
from unified_extractor.training.errors import ConfigurationError, DivergedError


def refuse(reason: str, code: int = 2) -> int:
    """Print ``uniex: error: reason`` and return the exit code: 2 for a wrong call."""
    print(f"uniex: error: {reason}", file=sys.stderr)
    return code


def lost_a_process(error: BaseException) -> bool:
    """Return whether this error says that another process of a distributed run has ended, which has printed its own reason."""
    text = str(error)
    return isinstance(error, torch.distributed.DistError) or ("gloo" in text and ("peer" in text or "Timed out" in text))


def users_mistake(error: BaseException | None, roots: Mapping[str, type]) -> str | None:
    """Return a message for the user if this error is a user's mistake, or ``None`` if it is a bug. ``roots`` are the classes
    of the settings' groups."""
    if isinstance(error, argparse.ArgumentError):
        return one_line(str(error), roots)
    if isinstance(error, MisconfigurationException):
        return f"trainer: {' '.join(str(error).split())}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"run: the disk is full: {error.filename or error.strerror}; the last checkpoint that fitted is kept"
    while error is not None:  # others may have wrapped it
        if isinstance(error, ConfigurationError | DivergedError):
            return str(error)
        if isinstance(error, DataError):  # a worker's comes with its traceback, the reason last
            if error.setting is not None:
                return f"data.init_args.{error.setting}: {error}"
            return "data: " + str(error).strip().splitlines()[-1].rsplit("DataError: ", 1)[-1]
        error = error.__cause__
    return None
