"""The start of a new run from the weights of another run, of a saved network or of an official file."""

import hashlib
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from unified_extractor.interop import load_weights
from unified_extractor.training.architecture import differing_fields, network_weights
from unified_extractor.training.errors import ConfigurationError
from unified_extractor.training.run.checkpoint_task import class_difference, read_task
from unified_extractor.training.run.checkpoints import CHECKPOINTS

ENTRY = "#"
"""The mark between a file and the entry of it that has the weights: ``w.pth#state_dict_ema``."""
_ENTRY_HINT = re.compile(r"which='([^']+)' takes it")
_SHOWN = 4
"""Number of different fields of specs that are named."""


class InitialWeights:
    """The weights that a network was given before training.

    Args:
        network: the network, which is changed in place.
        source: a file or folder that ``interop.load_weights`` reads, perhaps with ``#`` and the entry that has the weights; or the folder
            of a run, whose best epoch is meant.
        class_names: names of the classes that will be trained; weights of as many other classes are kept with a note.

    Attributes:
        name: the source with the first digits of the SHA-256 of its content, for the run's record.
        notes: what was left out, left at its start or interpolated, a line for each reason.

    Raises:
        ConfigurationError: there is no such file, or its weights are not those of the network's architecture.
    """

    def __init__(self, network: nn.Module, source: str, class_names: Sequence[str] | None = None) -> None:
        file, _, entry = source.partition(ENTRY)
        if not file:
            raise ConfigurationError(f"model.initial_weights: must name a file or folder, got {source!r}")
        if (best := Path(file) / CHECKPOINTS / "best.ckpt").is_file():
            file = str(best)
        own = _own_checkpoint(Path(file))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # it says what is returned
                left = load_weights(
                    network, network_weights(own["state_dict"]) if own and not entry else file, which=entry or None
                )
        except (OSError, ValueError, TypeError) as error:
            message = str(error).replace("state_dict", file) if own and not entry else str(error)
            raise ConfigurationError(f"model.initial_weights: {' '.join(message.split())}") from error
        self.name = f"{source} sha256:{_digest(Path(file))}"
        self.notes = [_ENTRY_HINT.sub(rf"{file}{ENTRY}\1 takes it", line) for line in _by_reason(left)]
        if own:
            specs, compared, backbone = own["layer_specs"], network, getattr(network, "backbone", None)
            if isinstance(backbone, nn.Module) and not any(name.startswith("backbone.") for name in specs):
                compared = backbone  # the weights are a classifier's
            differing = differing_fields(compared, specs)
            more = len(differing) - _SHOWN
            self.notes += differing[:_SHOWN] + [f"{more} more fields of specs differ"] * (more > 0)
            task = read_task(own) if compared is network else None
            if (
                task
                and class_names
                and len(task.class_names) == len(class_names)
                and (names := class_difference(task, class_names))
            ):
                self.notes.append(f"the classifier is kept, and was trained on other classes{names}")


def _own_checkpoint(path: Path) -> dict[str, Any] | None:
    """Return the content of a checkpoint of a run of this package, or ``None`` for any other file."""
    if not zipfile.is_zipfile(path):
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, UnpicklingError):
        return None  # the reader of weights says why
    return content if isinstance(content, dict) and {"state_dict", "layer_specs"} <= content.keys() else None


def _by_reason(left: Mapping[str, str]) -> list[str]:
    """Return a line for each reason, with the names that it holds for."""
    reasons: dict[str, list[str]] = {}
    for name, reason in left.items():
        reasons.setdefault(reason, []).append(name)
    return [
        f"{', '.join(names[:2])}{f' and {len(names) - 2} more' * (len(names) > 2)}: {reason}" for reason, names in reasons.items()
    ]


def _digest(path: Path) -> str:
    """Return the first sixteen hexadecimal digits of the SHA-256 of a file, or of all files in a folder."""
    content = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as opened:
                content.update(hashlib.file_digest(opened, "sha256").digest())
    return content.hexdigest()[:16]
