"""Checks before a run begins: settings that fit together, devices that exist, disk space for the checkpoints."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jsonargparse import Namespace
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Callback,
    Checkpoint,
    GradientAccumulationScheduler,
    LearningRateFinder,
    StochasticWeightAveraging,
    WeightAveraging,
)
from torch import nn

from unified_extractor.training.errors import ConfigurationError

CHECKPOINT_FILES = 6
"""Largest number of checkpoints on disk at once: the best, two between and two within epochs, and one being written."""
_REFUSED: dict[type[Callback], str] = {
    Checkpoint: "is left out, a run keeps its own checkpoints, the best and the last two epochs; checkpoint_every_n_steps writes more",
    GradientAccumulationScheduler: "changes the steps of an epoch, which the learning rate follows; set trainer.accumulate_grad_batches",
    BatchSizeFinder: "changes the batch size behind the configuration and the record; set data.init_args.batch_size",
    LearningRateFinder: "changes the learning rate behind the configuration and the record; set model.optimization.learning_rate",
    StochasticWeightAveraging: "changes the learning rate and the epochs behind the record, and no checkpoint has its average; take "
    "lightning.pytorch.callbacks.WeightAveraging",
}
"""Callbacks that no run takes, with the reason and what to do instead."""


def check_devices(accelerator: Any, devices: Any) -> None:
    """Raise ``ConfigurationError`` if ``trainer.accelerator`` and ``devices`` ask for an NVIDIA GPU that does not exist."""
    if accelerator not in ("gpu", "cuda"):
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise ConfigurationError(f"trainer.accelerator: {accelerator!r} is not there, torch sees no GPU on this machine")
    if str(devices).isdecimal() and int(devices) > count:
        raise ConfigurationError(f"trainer.devices: {devices} are asked for, torch sees {count} on this machine")


def check_trainer_settings(settings: Namespace) -> None:
    """Raise ``ConfigurationError`` for settings of the trainer with which a run could not choose and test its best epoch."""
    for name in ("max_epochs", "limit_train_batches", "limit_val_batches", "limit_test_batches"):
        if settings[name] == 0:
            raise ConfigurationError(f"trainer.{name}: must not be 0, fit trains, validates and tests")
    if settings.barebones:
        raise ConfigurationError("trainer.barebones: cannot be set, it leaves out the checkpoints and curves of a run")
    for name, instead in (
        ("default_root_dir", "a run's files lie below run.root"),
        ("val_check_interval", "every epoch ends with one"),
    ):
        if settings[name] not in (None, 1.0):
            raise ConfigurationError(f"trainer.{name}: cannot be set, {instead}, got {settings[name]}")
    if settings.accumulate_grad_batches < 1:
        raise ConfigurationError(f"trainer.accumulate_grad_batches: must be at least 1, got {settings.accumulate_grad_batches}")
    if not settings.check_val_every_n_epoch:
        raise ConfigurationError("trainer.check_val_every_n_epoch: must be at least 1, the best epoch is chosen by validation")
    if settings.max_epochs not in (None, -1) and settings.check_val_every_n_epoch > settings.max_epochs:
        raise ConfigurationError(
            "trainer.check_val_every_n_epoch: must not exceed max_epochs, the best epoch is chosen by validation, "
            f"got {settings.check_val_every_n_epoch}, max_epochs {settings.max_epochs}"
        )


def check_callbacks(callbacks: Sequence[Callback]) -> None:
    """Raise ``ConfigurationError`` for callbacks that change what the configuration and the record of a run say."""
    for index, callback in enumerate(callbacks):
        for kind, reason in _REFUSED.items():
            if isinstance(callback, kind):
                raise ConfigurationError(f"trainer.callbacks[{index}]: {type(callback).__name__} {reason}")


def check_precision(trainer: L.Trainer, requested: Any) -> None:
    """Raise ``ConfigurationError`` if Lightning takes another precision than the one ``requested``, as it does on a CPU: the
    configuration would say what was not used."""
    if str(requested) in ("16", "16-mixed") and trainer.precision != "16-mixed":
        raise ConfigurationError(
            f"trainer.precision: {requested} is for GPUs, here Lightning would take {trainer.precision}; set that, or another"
        )


def check_batch_norm(trainer: L.Trainer, requested: bool) -> None:
    """Raise ``ConfigurationError`` if synchronized batch norm is ``requested`` on a CPU: torch has none there."""
    if requested and isinstance(trainer.accelerator, CPUAccelerator):
        raise ConfigurationError("trainer.sync_batchnorm: torch synchronizes batch norm on GPUs only, this run is on a CPU")


def check_room(folder: Path, network: nn.Module, trainer: L.Trainer) -> None:
    """Raise ``ConfigurationError`` unless the disk has space for the checkpoints: weights, two optimizer states, an average."""
    folder = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    averaged = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    weights = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    needed, free = CHECKPOINT_FILES * weights * (4 if averaged else 3), shutil.disk_usage(folder).free
    if free < needed:
        raise ConfigurationError(f"run.root: {folder} has {free:,} bytes free, the checkpoints of this run need up to {needed:,}")
