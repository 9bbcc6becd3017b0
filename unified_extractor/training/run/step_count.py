"""How many steps a run will take."""

import math
from dataclasses import dataclass

import lightning as L

from unified_extractor.data import ImageDataModule
from unified_extractor.training.errors import ConfigurationError


@dataclass(frozen=True)
class Steps:
    """Batches an epoch and device, optimiser steps an epoch, and those of the whole run."""

    batches: int
    per_epoch: int
    total: int


def planned_steps(trainer: L.Trainer, data: object) -> Steps:
    """What a run with this trainer on these data will take.

    Lightning's ``estimated_stepping_batches`` would set up the loaders before a checkpoint is read, and they would then never
    get the position that it holds; it serves data modules that are not ours.

    Raises:
        ConfigurationError: a run without an end.
    """
    if isinstance(data, ImageDataModule):
        batches = _limited(data.training_batches(), trainer.limit_train_batches)
        per_epoch = max(1, math.ceil(batches / trainer.accumulate_grad_batches))
        total = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs * per_epoch
        total = total if trainer.max_steps == -1 else min(total, trainer.max_steps)
    else:
        total = trainer.estimated_stepping_batches
        per_epoch = batches = max(1, round(total / (trainer.max_epochs or 1))) if math.isfinite(total) else 1
    if not math.isfinite(total):
        raise ConfigurationError("trainer.max_epochs: must be set, the learning rate falls to zero at the end")
    return Steps(batches, per_epoch, max(1, int(total)))


def limited_images(trainer: L.Trainer, data: ImageDataModule) -> int:
    """Test images that the trainer's limit leaves."""
    every: int = len(data.images("test"))  # type: ignore[arg-type]
    turn = data.batch_size * trainer.world_size
    return min(every, turn * _limited(math.ceil(every / turn), trainer.limit_test_batches))


def _limited(batches: int, limit: float | int | None) -> int:
    if limit is None:
        return batches
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)
