"""Checkpoints of a run: which are written, whether a file is one, which to go on from."""

import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from unified_extractor.training.errors import ConfigurationError

CHECKPOINTS = "checkpoints"
KEPT = 2
"""Checkpoints to go on from that are kept: if the newest is damaged, the one before it is there."""


def run_checkpoints(folder: Path, every_n_steps: int | None = None) -> list[ModelCheckpoint]:
    """``best.ckpt``, by validation accuracy, and the last two ``epoch_<N>.ckpt``, in that order: the last knows the best.

    With ``every_n_steps`` the last two ``step_<N>.ckpt`` beside them, taken within the epochs.
    """
    common: dict[str, Any] = {
        "dirpath": folder / CHECKPOINTS,
        "mode": "max",
        "enable_version_counter": False,
        "auto_insert_metric_name": False,
    }
    newest: dict[str, Any] = {**common, "monitor": "step", "save_top_k": KEPT}
    checkpoints = [
        ModelCheckpoint(filename="best", monitor="val/accuracy", save_top_k=1, save_on_train_epoch_end=True, **common),
        ModelCheckpoint(filename="epoch_{epoch:04d}", save_on_train_epoch_end=True, **newest),
    ]
    if every_n_steps is not None:
        checkpoints.append(ModelCheckpoint(filename="step_{step:08d}", every_n_train_steps=every_n_steps, **newest))
    return checkpoints


def newest_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint with the most training steps, between epochs rather than within one. A damaged file is skipped with a
    message on stderr."""
    whole: list[tuple[int, bool, Path]] = []
    for path in sorted(folder.glob("*.ckpt")):
        try:
            whole.append((read_checkpoint(path)["global_step"], path.name.startswith("epoch"), path))
        except ConfigurationError:
            print(f"uniex: {path} is damaged, going on without it", file=sys.stderr)
    return max(whole)[-1] if whole else None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a run's checkpoint. Raises ``ConfigurationError`` unless every byte of the file is as it was written."""
    if not path.is_file():
        raise ConfigurationError(f"ckpt_path: no such file: {path}")
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
        content = None if damaged else torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise ConfigurationError(f"ckpt_path: not a readable checkpoint: {path}") from error
    if content is None:
        raise ConfigurationError(f"ckpt_path: not a readable checkpoint: {path}")
    if not isinstance(content, dict) or not {"state_dict", "loops", "global_step"} <= content.keys():
        raise ConfigurationError(f"ckpt_path: not a checkpoint of a run: {path}")
    return content
