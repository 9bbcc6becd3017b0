"""Runs of tiny networks on digits, in this process or in their own, and callbacks that break them."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from torch import nn

from unified_extractor import UnifiedExtractor2d, presets
from unified_extractor.__main__ import main
from unified_extractor.training.run.folder import release_locks

ROOT = Path(__file__).parents[2]


class WithoutBatchNorm(nn.Module):
    """A network whose logits of an image do not depend on the other images of the batch."""

    def __init__(self, num_classes: int = 10, in_chans: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_chans, 16, 3, padding=1)
        self.extractor = UnifiedExtractor2d(16, 16, presets.deformable_convolution(3, groups=2))
        self.head = nn.Linear(16, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.extractor(self.stem(images).relu()).relu().mean((2, 3)))


class KillOnce(L.Callback):
    """Sends this process a signal at the end of an optimizer step: SIGKILL is what a power cut is. Only the first time."""

    def __init__(self, step: int, marker: str, number: int = signal.SIGKILL) -> None:
        self.step, self.marker, self.number = step, marker, number

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        marker = Path(f"{self.marker}.{trainer.global_rank}")
        if trainer.global_step == self.step and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), self.number)


class Interrupt(L.Callback):
    """Breaks a run off at the end of an optimizer step, as Ctrl-C does. Only the first time."""

    def __init__(self, step: int, marker: str) -> None:
        self.step, self.marker = step, Path(marker)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and not self.marker.exists():
            self.marker.touch()
            raise KeyboardInterrupt


class KillRank(L.Callback):
    """Kills the process of a rank at the end of an optimizer step."""

    def __init__(self, step: int, rank: int) -> None:
        self.step, self.rank = step, rank

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if (trainer.global_step, trainer.global_rank) == (self.step, self.rank):
            os.kill(os.getpid(), signal.SIGKILL)


class LossFile(L.Callback):
    """Appends the loss of every step, averaged over the ranks, to a file."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        loss = trainer.strategy.reduce(outputs["loss"].detach().double(), reduce_op="mean")
        if trainer.is_global_zero:
            with self.path.open("a") as file:
                file.write(f"{float(loss)!r}\n")


class StopAt(L.Callback):
    """Stops the training after a step, as a limit of time does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.should_stop or trainer.global_step == self.step


class Poison(L.Callback):
    """Makes one layer put out a value that is not finite, from a step on; on one rank alone if that is given."""

    def __init__(self, layer: str, step: int, rank: int | None = None) -> None:
        self.layer, self.step, self.rank = layer, step, rank

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == self.step and self.rank in (None, trainer.global_rank):
            layer = pl_module.network.get_submodule(self.layer)
            layer.register_forward_hook(lambda module, inputs, output: output * float("inf"))


class SpoilWeights(L.Callback):
    """Makes a weight not finite after the last step of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == self.epoch and batch_idx + 1 == trainer.num_training_batches:
            with torch.no_grad():
                next(pl_module.network.parameters()).fill_(float("nan"))


def tiny_config() -> dict[str, Any]:
    """A run of a tiny network on digits."""
    return {
        "threads": 1,
        "model": {
            "optimization": {"learning_rate": 0.01},
            "network": {
                "class_path": "unified_extractor.models.ExtractorNet",
                "init_args": {
                    "num_classes": 10,
                    "in_chans": 1,
                    "widths": [8],
                    "depths": [1],
                    "spec": {"kernel_size": 3, "static_kernel": {"channels": "dense"}},
                },
            },
        },
        "data": {"class_path": "unified_extractor.data.Digits", "init_args": {"batch_size": 128}},
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False},
    }


def write_config(folder: Path, **changes: Any) -> Path:
    """The tiny run, with random crops, as a file; ``changes`` are dotted keys with ``__`` for the dot."""
    usual = {"run__name": "tiny", "data__init_args__augmentation": {"crop_padding": 1}}
    return write_changed(folder / "run.yaml", tiny_config(), usual | changes)


def write_changed(file: Path, config: dict[str, Any], changes: Mapping[str, Any]) -> Path:
    """Write a configuration with changes, by dotted keys with ``__`` for the dot."""
    for path, value in changes.items():
        *parents, last = path.split("__")
        target = config
        for key in parents:
            target = target.setdefault(key, {})
        target[last] = value
    file.write_text(yaml.safe_dump(config))
    return file


def in_its_own_process(*arguments: object, prefix: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    """``uniex`` in a process of its own, in the current folder."""
    command = prefix or (sys.executable, "-m", "unified_extractor")
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([*command, *map(str, arguments)], env=variables, capture_output=True, text=True, timeout=300)


def in_this_process(*arguments: object) -> None:
    """Run ``uniex`` to its good end in this process, which spares the import of torch and Lightning."""
    try:
        assert main([str(argument) for argument in arguments]) == 0
    finally:
        release_locks()


def weights(path: Path) -> dict[str, torch.Tensor]:
    """The classifier's state in a checkpoint."""
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def final(folder: Path) -> dict[str, Any]:
    """The newest checkpoint between epochs."""
    content: dict[str, Any] = torch.load(max((folder / "checkpoints").glob("epoch_*.ckpt")), weights_only=True)
    return content
