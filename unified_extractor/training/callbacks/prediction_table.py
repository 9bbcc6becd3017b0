"""The table of ``uniex predict``: a row for every image, written as soon as its batch is done."""

import csv
import sys
from collections.abc import Sequence
from typing import Any, TextIO

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter
from typing_extensions import override

from unified_extractor.training.errors import ConfigurationError


class PredictionTable(BasePredictionWriter):
    """A callback that writes file, classes and probabilities of images as CSV.

    An image that cannot be read has a row with the reason and no class, and a line on stderr.

    Args:
        stream: text file that the table is written to.
        top_k: number of most likely classes in a row.

    Attributes:
        unreadable: number of images that could not be read.
    """

    def __init__(self, stream: TextIO, top_k: int = 1) -> None:
        super().__init__(write_interval="batch")
        self.stream, self.top_k, self.unreadable = stream, top_k, 0
        self._table = csv.writer(stream)
        self._names: Sequence[str] = ()

    @override
    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._names = pl_module.predicted_classes  # type: ignore[assignment]
        if pl_module.task is None:
            print("uniex: the checkpoint has no names of classes, so they are those of the training data", file=sys.stderr)
        if self.top_k > len(self._names):
            raise ConfigurationError(f"top_k: must not exceed the number of classes, {len(self._names)}, got {self.top_k}")
        numbers = ["", *(f"_{number}" for number in range(2, self.top_k + 1))]
        columns = [f"{column}{number}" for number in numbers for column in ("class", "probability")]
        self._write(["file", *columns, "error"])

    @override
    def write_on_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, prediction: dict[str, Any], *others: Any
    ) -> None:
        probabilities, labels = prediction["probabilities"].topk(self.top_k)
        for file, error, *likeliest in zip(
            prediction["file"], prediction["error"], labels.tolist(), probabilities.tolist(), strict=True
        ):
            if error:
                self.unreadable += 1
                print(f"uniex: {file}: {error}", file=sys.stderr)
                self._write([file, *[""] * 2 * self.top_k, error])
            else:
                pairs = zip(*likeliest, strict=True)
                self._write([file, *(value for label, share in pairs for value in (self._names[label], f"{share:.4f}")), ""])
        self.stream.flush()

    def _write(self, values: Sequence[str]) -> None:
        self._table.writerow(values)
