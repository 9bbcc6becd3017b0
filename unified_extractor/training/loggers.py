"""Where the curves go: ``metrics.csv`` and TensorBoard's event files, both in the run's folder."""

import csv
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities.rank_zero import rank_zero_only


def run_loggers(folder: Path) -> list[Logger]:
    """The loggers of a run whose files lie in ``folder``."""
    return [_ContinuedCSVLogger(folder, name="", version=""), TensorBoardLogger(folder, name="", version="")]


class _ContinuedCSVLogger(CSVLogger):
    """A CSV logger that keeps the rows of a run it continues. Lightning's deletes them."""

    @property
    def experiment(self) -> ExperimentWriter:
        path = Path(self.log_dir) / ExperimentWriter.NAME_METRICS_FILE
        if self._experiment is not None or not path.is_file() or rank_zero_only.rank != 0:  # type: ignore[attr-defined]
            return super().experiment
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        writer = super().experiment
        writer.metrics = rows
        writer.save()
        return writer
