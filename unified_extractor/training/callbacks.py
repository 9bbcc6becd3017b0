"""What happens beside the training steps: the random state, the clock."""

import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import RichProgressBar
from typing_extensions import override


class ReseedEachEpoch(L.Callback):
    """Seeds torch's generators by (seed, epoch, rank) before an epoch's first step.

    Checkpoints hold no random state: without this, dropout would differ after a resume. Lightning moves on to the next epoch's
    data before ``on_train_epoch_start``, so the first batch is the place.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    @override
    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            torch.manual_seed((self.seed * 1_000_000 + trainer.current_epoch) * 1_000 + trainer.global_rank)


class NarrowProgressBar(RichProgressBar):
    """Rich's bar, short and without the speed, so that a line of 80 columns holds the figures too."""

    @override
    def configure_columns(self, trainer: L.Trainer) -> list[Any]:
        columns = super().configure_columns(trainer)[:-1]
        columns[1].bar_width = 5
        return columns


class EpochTimer(L.Callback):
    """Wall time of the training steps of each epoch in seconds, without validation: ``seconds``. Survives a resume."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = self._last = 0.0

    @override
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start = self._last = time.perf_counter()

    @override
    def on_train_batch_end(self, *_: Any) -> None:
        self._last = time.perf_counter()

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seconds.append(self._last - self._start)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"seconds": list(self.seconds)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds = list(state_dict["seconds"])
