"""The base of callbacks that write what ``uniex predict`` finds: a CSV table with a row for every image."""

import csv
import sys
from collections.abc import Sequence
from typing import Any, ClassVar, Self, TextIO

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter
from typing_extensions import override


class PredictionWriter(BasePredictionWriter):
    """A callback that writes a row of CSV for every image as soon as its batch is done.

    An image that cannot be read has a row with nothing but its file and the reason, and a line on stderr.

    Args:
        stream: text file that the table is written to.

    Attributes:
        options: arguments of ``uniex predict`` for this callback: type, default and help by name.
        unreadable: number of images that could not be read.
    """

    options: ClassVar[dict[str, tuple[type, Any, str]]] = {}

    def __init__(self, stream: TextIO) -> None:
        super().__init__(write_interval="batch")
        self.stream, self.unreadable = stream, 0
        self._table = csv.writer(stream)
        self._width = 0

    @classmethod
    def from_options(cls, stream: TextIO, **options: Any) -> Self:
        """Return the callback with its ``options``. Raise ``ConfigurationError`` for a wrong value of them."""
        raise NotImplementedError

    def columns(self, module: Any) -> list[str]:
        """Return the names of the columns between ``file`` and ``error``."""
        raise NotImplementedError

    def rows(self, prediction: dict[str, Any]) -> Sequence[Sequence[Any]]:
        """Return the values of these columns for every image of a batch; they are left out where the image is not readable."""
        raise NotImplementedError

    @override
    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if pl_module.task is None:
            print("uniex: the checkpoint has no names of classes, so they are those of the training data", file=sys.stderr)
        columns = self.columns(pl_module)
        self._width = len(columns)
        self._table.writerow(["file", *columns, "error"])

    @override
    def write_on_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, prediction: dict[str, Any], *others: Any
    ) -> None:
        for file, error, values in zip(prediction["file"], prediction["error"], self.rows(prediction), strict=True):
            if error:
                self.unreadable += 1
                print(f"uniex: {file}: {error}", file=sys.stderr)
            self._table.writerow([file, *([""] * self._width if error else values), error])
        self.stream.flush()
