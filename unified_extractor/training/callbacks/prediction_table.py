"""The table of ``uniex predict`` for classification: the most likely classes of every image."""

from collections.abc import Sequence
from typing import Any, ClassVar, Self, TextIO

from typing_extensions import override

from unified_extractor.training.callbacks.prediction_writer import PredictionWriter
from unified_extractor.training.errors import ConfigurationError


class PredictionTable(PredictionWriter):
    """A callback that writes file, classes and probabilities of images as CSV.

    Args:
        stream: text file that the table is written to.
        top_k: number of most likely classes in a row.
    """

    options: ClassVar = {"top_k": (int, 1, "Number of most likely classes in each row.")}

    def __init__(self, stream: TextIO, top_k: int = 1) -> None:
        super().__init__(stream)
        self.top_k = top_k
        self._names: Sequence[str] = ()

    @classmethod
    @override
    def from_options(cls, stream: TextIO, **options: Any) -> Self:
        if options["top_k"] < 1:
            raise ConfigurationError(f"top_k: must be at least 1, got {options['top_k']}")
        return cls(stream, **options)

    @override
    def columns(self, module: Any) -> list[str]:
        self._names = module.predicted_classes
        if self.top_k > len(self._names):
            raise ConfigurationError(f"top_k: must not exceed the number of classes, {len(self._names)}, got {self.top_k}")
        numbers = ["", *(f"_{number}" for number in range(2, self.top_k + 1))]
        return [f"{column}{number}" for number in numbers for column in ("class", "probability")]

    @override
    def rows(self, prediction: dict[str, Any]) -> Sequence[Sequence[Any]]:
        probabilities, labels = prediction["probabilities"].topk(self.top_k)
        return [
            [value for label, share in zip(*likeliest, strict=True) for value in (self._names[label], f"{share:.4f}")]
            for likeliest in zip(labels.tolist(), probabilities.tolist(), strict=True)
        ]
