"""The progress bar of a run."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from typing_extensions import override


class NarrowProgressBar(RichProgressBar):
    """Rich's progress bar, made narrow and without the speed, so that the losses fit into a line of 80 columns; epochs count from 1."""

    @override
    def configure_columns(self, trainer: L.Trainer) -> list[Any]:
        columns = super().configure_columns(trainer)[:-1]
        columns[1].bar_width = 5
        return columns

    @override
    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"  # counted from 1, as everywhere
