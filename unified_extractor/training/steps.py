"""How many steps a run will take."""

import math

import lightning as L

from unified_extractor.data import ImageDataModule
from unified_extractor.training.errors import ConfigurationError


def planned_steps(trainer: L.Trainer) -> int:
    """Optimiser steps until the end of the run.

    Lightning's ``estimated_stepping_batches`` would set up the loaders before a checkpoint is read, and they would then never
    get the position that it holds; it serves data modules that are not ours.

    Raises:
        ConfigurationError: a run without an end.
    """
    data = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(data, ImageDataModule):
        steps = trainer.estimated_stepping_batches
    else:
        limit, batches = trainer.limit_train_batches, data.training_batches()
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        epochs = float("inf") if trainer.max_epochs in (None, -1) else trainer.max_epochs
        steps = epochs * math.ceil(batches / trainer.accumulate_grad_batches)
        steps = steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)
    if steps == float("inf"):
        raise ConfigurationError("trainer.max_epochs: must be set, the learning rate falls to zero at the end")
    return max(1, int(steps))
