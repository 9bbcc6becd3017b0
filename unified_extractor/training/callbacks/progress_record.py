"""The record of a run that is not finished: what is known after each epoch, for reports of interrupted runs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
from typing_extensions import override

from unified_extractor.results.record import as_line, write_whole
from unified_extractor.training.callbacks.history import RunHistory
from unified_extractor.training.run.record import make_record
from unified_extractor.training.run.step_count import planned_steps


class ProgressRecord(L.Callback):
    """A callback that writes the record of the epochs so far, once one was validated.

    Args:
        path: file of the record.
        history: course of the run, a callback that stands before this one.
        describe: function that returns the fields of the record that are known before training.

    Attributes:
        described: these fields, on the first process.
    """

    def __init__(self, path: Path, history: RunHistory, describe: Callable[[L.Trainer], Mapping[str, Any]]) -> None:
        self.path, self.history, self._describe = path, history, describe
        self.described: Mapping[str, Any] = {}

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.is_global_zero:  # before a strategy shards the network
            self.described = self._describe(trainer)

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero or not self.history.curve:
            return
        best = max(self.history.curve, key=lambda point: point[f"val_{pl_module.score}"])
        record = make_record(
            self.described,
            module=pl_module,  # type: ignore[arg-type]
            history=self.history,
            device=trainer.strategy.root_device,
            epochs=trainer.current_epoch + 1,
            best_epoch=best["epoch"],
            planned_epochs=planned_steps(trainer, trainer.datamodule).epochs,  # type: ignore[attr-defined]
        )
        write_whole(self.path, as_line(record) + "\n")
