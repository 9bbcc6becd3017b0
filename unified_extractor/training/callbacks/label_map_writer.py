"""The files of ``uniex predict`` for segmentation: a label map of every image, in the colors of the classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, TextIO

from PIL import Image
from torch import Tensor
from typing_extensions import override

from unified_extractor.training.callbacks.prediction_writer import PredictionWriter
from unified_extractor.training.errors import ConfigurationError


class LabelMapWriter(PredictionWriter):
    """A callback that writes the label map of every image as a PNG file, and the names of both files as CSV.

    The pixels of the PNG are indices of classes, with the colors of the classes as its palette: people see colors, programs read indices,
    and the file can serve as a label map for training.

    Args:
        stream: text file that the table is written to.
        output: folder of the label maps; it is made where it is missing, and files of the same names are replaced.
    """

    options: ClassVar = {"output": (str, "predictions", "Folder of the label maps, PNG files in the colors of the classes.")}

    def __init__(self, stream: TextIO, output: str = "predictions") -> None:
        super().__init__(stream)
        self.output = Path(output)
        self._palette: list[int] = []
        self._images: set[Path] = set()
        self._written: set[Path] = set()

    @classmethod
    @override
    def from_options(cls, stream: TextIO, **options: Any) -> Self:
        folder = Path(options["output"])
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"output: cannot make the folder {folder}: {error.strerror}") from error
        return cls(stream, **options)

    @override
    def columns(self, module: Any) -> list[str]:
        self._images = {path.resolve() for path in module.trainer.datamodule.predict_images().files}
        self._palette = [value for color in module.predicted_colors for value in color]
        return ["label_map"]

    @override
    def rows(self, prediction: dict[str, Any]) -> Sequence[Sequence[Any]]:
        files = zip(prediction["file"], prediction["error"], prediction["maps"], strict=True)
        return [[] if error else [self._write(file, labels)] for file, error, labels in files]

    def _write(self, file: str, labels: Tensor) -> Path:
        """Write a label map under the name of its image; raise ``ConfigurationError`` where that file is one of the images."""
        stem, number = Path(file).stem, 1
        path = self.output / f"{stem}.png"
        while path in self._written:  # of an image in another folder
            number += 1
            path = self.output / f"{stem}_{number}.png"
        if path.resolve() in self._images:
            raise ConfigurationError(f"output: must be another folder than that of the images, got {self.output}")
        self._written.add(path)
        image = Image.fromarray(labels.cpu().numpy())
        image.putpalette(self._palette)
        image.save(path)
        return path
