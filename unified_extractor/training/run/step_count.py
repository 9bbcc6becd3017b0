"""The numbers of batches, optimizer steps and images that a run takes."""

import math
from dataclasses import dataclass

import lightning as L

from unified_extractor.data import VisionDataModule
from unified_extractor.data.data_module import Split
from unified_extractor.training.errors import ConfigurationError


@dataclass(frozen=True)
class StepCount:
    """The length of a run.

    Attributes:
        batches: training batches of an epoch on each device.
        per_epoch: optimizer steps of an epoch.
        total: optimizer steps of the whole run.
    """

    batches: int
    per_epoch: int
    total: int

    @property
    def epochs(self) -> int:
        """Number of epochs, the last of which may be cut short."""
        return math.ceil(self.total / self.per_epoch)


def planned_steps(trainer: L.Trainer, data: object) -> StepCount:
    """Return the length of a run with this trainer on these data.

    Lightning's ``estimated_stepping_batches`` would set up the loaders before a checkpoint is read, and they would then never
    get the position that it holds; it is used for data modules of other packages.

    Raises:
        ConfigurationError: a run without an end.
    """
    if isinstance(data, VisionDataModule):
        batches = planned_batches(trainer, data, "train")
        per_epoch = max(1, math.ceil(batches / trainer.accumulate_grad_batches))
        total = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs * per_epoch
        total = total if trainer.max_steps == -1 else min(total, trainer.max_steps)
    else:
        total = trainer.estimated_stepping_batches
        per_epoch = batches = max(1, round(total / (trainer.max_epochs or 1))) if math.isfinite(total) else 1
    if not math.isfinite(total):
        raise ConfigurationError("trainer.max_epochs: must be set, the learning rate falls to zero at the end")
    return StepCount(batches, per_epoch, max(1, int(total)))


def planned_batches(trainer: L.Trainer, data: VisionDataModule, split: Split) -> int:
    """Return the number of batches of a split on each device that the trainer's limit leaves."""
    limit = {"train": trainer.limit_train_batches, "val": trainer.limit_val_batches, "test": trainer.limit_test_batches}[split]
    batches = data.batches(split, trainer.world_size)
    if limit is None:
        return batches
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def planned_test_images(trainer: L.Trainer, data: VisionDataModule) -> int:
    """Return the number of test images that the trainer's limit leaves."""
    every: int = len(data.images("test"))  # type: ignore[arg-type]
    return min(every, data.batch_size * trainer.world_size * planned_batches(trainer, data, "test"))
