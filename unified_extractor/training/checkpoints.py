"""Checkpoints of a run: which are written, and whether a file is one."""

import pickle
import zipfile
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from unified_extractor.training.errors import ConfigurationError
from unified_extractor.training.run_folder import CHECKPOINTS


def run_checkpoints(folder: Path) -> list[ModelCheckpoint]:
    """``best.ckpt``, by validation accuracy, and ``last.ckpt``, of every epoch, in that order: the last knows the best.

    Two callbacks, since one with ``save_last=True`` writes the last only when the best changes.
    """
    common = {"dirpath": folder / CHECKPOINTS, "save_top_k": 1, "enable_version_counter": False, "save_on_train_epoch_end": True}
    return [
        ModelCheckpoint(filename="best", monitor="val/accuracy", mode="max", **common),  # type: ignore[arg-type]
        ModelCheckpoint(filename="last", **common),  # type: ignore[arg-type]
    ]


def check_checkpoint_file(path: Path) -> None:
    """Raise ``ConfigurationError`` unless the file is a whole checkpoint of Lightning's."""
    if not path.is_file():
        raise ConfigurationError(f"ckpt_path: no such file: {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise ConfigurationError(f"ckpt_path: not a readable checkpoint: {path}") from error
    if not isinstance(content, dict) or "state_dict" not in content or "loops" not in content:
        raise ConfigurationError(f"ckpt_path: not a checkpoint of a run: {path}")
