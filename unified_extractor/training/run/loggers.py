"""The loggers of a run: ``metrics.csv`` and TensorBoard's event files, both in the run's folder."""

import csv
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities.rank_zero import rank_zero_only


def run_loggers(folder: Path, step: int) -> list[Logger]:
    """Return the loggers of a run with its files in ``folder``. ``step`` is the step from which it is resumed, 0 for a new
    run."""
    return [
        _ContinuedCSVLogger(folder, step),
        TensorBoardLogger(folder, name="", version="", purge_step=step or None),
    ]


class _ContinuedCSVLogger(CSVLogger):
    """A CSV logger that keeps the rows of a resumed run up to the step from which it continues; Lightning's deletes them."""

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__(folder, name="", version="", flush_logs_every_n_steps=1)
        self._step = step

    @property
    def experiment(self) -> ExperimentWriter:
        path = Path(self.log_dir) / ExperimentWriter.NAME_METRICS_FILE
        if self._experiment is not None or not path.is_file() or rank_zero_only.rank != 0:  # type: ignore[attr-defined]
            return super().experiment
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if (row["step"] or "").isdigit() and int(row["step"]) < self._step]
        writer = super().experiment
        writer.metrics = rows
        writer.save()
        return writer
