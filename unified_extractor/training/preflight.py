"""What is checked before a run begins: devices that are there, room for the checkpoints."""

import shutil
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn

from unified_extractor.training.errors import ConfigurationError

CHECKPOINT_FILES = 6
"""At most on disk at once: the best, two between and two within epochs, one being written."""


def check_devices(accelerator: Any, devices: Any) -> None:
    """Raise ``ConfigurationError`` if an NVIDIA GPU is asked for by ``trainer.accelerator`` and ``devices`` that is not there."""
    if accelerator not in ("gpu", "cuda"):
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise ConfigurationError(f"trainer.accelerator: {accelerator!r} is not there, torch sees no GPU on this machine")
    if str(devices).isdecimal() and int(devices) > count:
        raise ConfigurationError(f"trainer.devices: {devices} are asked for, torch sees {count} on this machine")


def check_batch_norm(trainer: L.Trainer, asked: bool) -> None:
    """Raise ``ConfigurationError`` if synchronised batch norm is ``asked`` for on a CPU: torch has none there."""
    if asked and isinstance(trainer.accelerator, CPUAccelerator):
        raise ConfigurationError("trainer.sync_batchnorm: torch synchronises batch norm on GPUs only, this run is on a CPU")


def check_room(folder: Path, network: nn.Module, trainer: L.Trainer) -> None:
    """Raise ``ConfigurationError`` unless the disk has room for the checkpoints: weights, two optimiser states, an average."""
    folder = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    averaged = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    weights = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    needed, free = CHECKPOINT_FILES * weights * (4 if averaged else 3), shutil.disk_usage(folder).free
    if free < needed:
        raise ConfigurationError(f"run.root: {folder} has {free:,} bytes free, the checkpoints of this run need up to {needed:,}")
