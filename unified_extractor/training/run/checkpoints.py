"""Checkpoints of a run: which are written, whether a file is one, which to go on from."""

import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from typing_extensions import override

from unified_extractor.training.errors import ConfigurationError

CHECKPOINTS = "checkpoints"
KEPT = 2
"""Checkpoints to go on from that are kept: if the newest is damaged, the one before it is there."""


class _MovableCheckpoint(ModelCheckpoint):
    """Remembers its best file in a folder that was moved, where Lightning's forgets it."""

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        if Path(here(state_dict["best_model_path"])).is_file():
            paths = {name: here(state_dict[name]) for name in ("best_model_path", "kth_best_model_path", "last_model_path")}
            best = {here(path): score for path, score in state_dict["best_k_models"].items()}
            state_dict = {**state_dict, **paths, "best_k_models": best, "dirpath": self.dirpath}
        super().load_state_dict(state_dict)


class _WithinEpochCheckpoint(_MovableCheckpoint):
    """Writes none after an epoch's last batch, from which Lightning would go on behind its validation, and none again when it goes on."""

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._last_global_step_saved = trainer.global_step

    @override
    def on_train_batch_end(self, trainer: L.Trainer, *others: Any) -> None:
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, *others)


def run_checkpoints(folder: Path, every_n_steps: int | None = None, *, validated_every: int = 1) -> list[ModelCheckpoint]:
    """``best.ckpt``, by validation accuracy, and the last two ``epoch_<N>.ckpt``, in that order: the last knows the best.

    With ``every_n_steps`` the last two ``step_<N>.ckpt`` beside them, taken within the epochs. The best is one of the epochs
    after which there is a validation, every ``validated_every``-th.
    """
    common: dict[str, Any] = {
        "dirpath": folder / CHECKPOINTS,
        "mode": "max",
        "enable_version_counter": False,
        "auto_insert_metric_name": False,
    }
    newest: dict[str, Any] = {**common, "monitor": "step", "save_top_k": KEPT}
    checkpoints: list[ModelCheckpoint] = [
        _MovableCheckpoint(
            filename="best",
            monitor="val/accuracy",
            save_top_k=1,
            every_n_epochs=validated_every,
            save_on_train_epoch_end=True,
            **common,
        ),
        _MovableCheckpoint(filename="epoch_{epoch:04d}", save_on_train_epoch_end=True, **newest),
    ]
    if every_n_steps is not None:
        checkpoints.append(_WithinEpochCheckpoint(filename="step_{step:08d}", every_n_train_steps=every_n_steps, **newest))
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


def remove_old(folder: Path, kept: Path) -> None:
    """Remove checkpoints to go on from beyond the last two, but not ``kept``: Lightning leaves those from which runs were resumed."""
    for kind in ("epoch", "step"):
        for path in sorted(folder.glob(f"{kind}_*.ckpt"))[:-KEPT]:
            if path != kept:
                path.unlink()


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
