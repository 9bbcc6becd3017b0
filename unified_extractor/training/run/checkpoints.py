"""The checkpoints of a run: writing them, reading them, and finding the one from which to resume."""

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
RESUMABLE = 2
"""Number of newest checkpoints that are kept for resuming: if the newest is damaged, the one before it is used."""


class _MovableCheckpoint(ModelCheckpoint):
    """A ``ModelCheckpoint`` that still knows its best file after the folder was moved; Lightning's forgets it."""

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        if Path(here(state_dict["best_model_path"])).is_file():
            paths = {name: here(state_dict[name]) for name in ("best_model_path", "kth_best_model_path", "last_model_path")}
            best = {here(path): score for path, score in state_dict["best_k_models"].items()}
            super().load_state_dict({**state_dict, **paths, "best_k_models": best, "dirpath": self.dirpath})
        elif not state_dict["best_model_path"]:
            super().load_state_dict({**state_dict, "dirpath": self.dirpath})  # otherwise it is of files that are not here


class _WithinEpochCheckpoint(_MovableCheckpoint):
    """A ``ModelCheckpoint`` that writes within epochs only.

    After a checkpoint at an epoch's last batch Lightning would resume behind that epoch's validation. A resumed run does not write
    the checkpoint again from which it was resumed.
    """

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._last_global_step_saved = trainer.global_step

    @override
    def on_train_batch_end(self, trainer: L.Trainer, *others: Any) -> None:
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, *others)


def run_checkpoints(
    folder: Path, score: str, every_n_steps: int | None = None, *, validated_every: int = 1
) -> list[ModelCheckpoint]:
    """Return the callbacks that write ``best.ckpt``, by the highest ``score`` in validation, and the last two ``epoch_<N>.ckpt``, in that
    order.

    The last callback knows the best file. With ``every_n_steps`` there is a third one, which writes the last two ``step_<N>.ckpt``
    within epochs. The best epoch is one with a validation after it, every ``validated_every``-th.
    """
    common: dict[str, Any] = {
        "dirpath": folder / CHECKPOINTS,
        "mode": "max",
        "enable_version_counter": False,
        "auto_insert_metric_name": False,
    }
    newest: dict[str, Any] = {**common, "monitor": "step", "save_top_k": RESUMABLE}
    checkpoints: list[ModelCheckpoint] = [
        _MovableCheckpoint(
            filename="best",
            monitor=f"val/{score}",
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
    """Return the undamaged checkpoint with the most training steps, one between epochs rather than one within. Report
    damaged files on stderr."""
    whole: list[tuple[int, bool, Path]] = []
    for path in sorted(folder.glob("*.ckpt")):
        try:
            whole.append((read_checkpoint(path)["global_step"], path.name.startswith("epoch"), path))
        except ConfigurationError:
            print(f"uniex: {path} is damaged, going on without it", file=sys.stderr)
    return max(whole)[-1] if whole else None


def remove_old(folder: Path, in_use: Path) -> None:
    """Remove all but the last two checkpoints for resuming, and never ``in_use``: Lightning leaves those from which runs were
    resumed."""
    for kind in ("epoch", "step"):
        for path in sorted(folder.glob(f"{kind}_*.ckpt"))[:-RESUMABLE]:
            if path != in_use:
                path.unlink()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a run's checkpoint. Raise ``ConfigurationError`` unless every byte of the file is as it was
    written."""
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
