"""The progress bar of a run."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from typing_extensions import override


class NarrowProgressBar(RichProgressBar):
    """Rich's bar, short and without the speed, so that a line of 80 columns holds the figures too."""

    @override
    def configure_columns(self, trainer: L.Trainer) -> list[Any]:
        columns = super().configure_columns(trainer)[:-1]
        columns[1].bar_width = 5
        return columns
