"""The row of a finished run: its fields, and how files of rows are written and read. Numbers in texts come from rows alone.

A file of rows has one JSON object a line; the record in a run folder is such a file with a single line.
"""

import csv
import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from unified_extractor.options import with_present_names
from unified_extractor.spec import ExtractorSpec

SCHEMA = 2
"""The version of the fields of a row, raised whenever one changes its meaning."""
RECORD, PROGRESS = "record.json", "progress.json"
RUN_FILES = (RECORD, PROGRESS)
"""Names of the file in a run's folder that holds its row: that of a finished run, and that of the epochs so far."""
FORMER_HASHES = "former_hashes.csv"
"""The name of the table that gives the present hashes for those of rows from before a change of how hashes are made."""

Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Loss = Annotated[float, Field(allow_inf_nan=False)]
_STRICT = ConfigDict(extra="forbid", strict=True)


class RecordError(ValueError):
    """A row, or a file of rows, that cannot be used; the message names the file and the line."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class EpochMetrics:
    """One point of a learning curve; ``epoch`` counts from 1. Accuracies and mIoU are fractions, mIoU null but in segmentation.

    ``gradient_norms``: of every stage of the network, before clipping, the mean over the epoch's steps; null for other networks.
    """

    epoch: Count
    train_loss: Loss
    train_accuracy: Fraction
    val_loss: Loss
    val_accuracy: Fraction
    gradient_norms: list[Loss] | None = None
    val_miou: Fraction | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Record:
    """A run that was trained and tested, or one that is not finished: ``planned_epochs`` says so.

    Attributes:
        schema: version of these fields.
        run: a random name that no other run has; a run that was broken and resumed keeps it.
        name: the name of the run, its folder below the root of all runs.
        question: the question that the run is part of, such as the name of a sweep; may be empty.
        variant: the name that is compared: rows that differ in nothing but the seed share it.
        budget: the class of its cost, such as ``cpu``; rows of different budgets never share a table. May be empty.
        dataset: the data set's name.
        config_hash: the hash of the resolved configuration, seed included.
        settings_hash: the hash of the resolved configuration without the seed: repetitions share it.
        network: the class of the network.
        specs: the extractors' specs, one a stage or one for all.
        parameters: the number of trained values of the network.
        multiply_adds: the multiply-adds of one image, forward.
        seed: the seed of initial weights, data order and augmentation.
        epochs: the number of epochs that were trained.
        planned_epochs: the number of epochs that a run shall have that is not finished; null for a finished one.
        learning_rate: the highest learning rate; null in rows of earlier versions.
        best_epoch: the epoch whose checkpoint was tested, the best by validation accuracy, in segmentation by mIoU; counts from 1.
        train_images: the number of images in the training split.
        epoch_images: the images of a training epoch: whole batches, and no more than the trainer's limits allow.
        test_images: the number of images that were tested.
        batch_size: the images of a step on all devices together, accumulation included.
        test_accuracy: the top-1 accuracy of the best epoch's checkpoint, in segmentation that of pixels; this and the other test figures
            are null for a run that is not finished, and for one that looked at no test image: its ``test_images`` are 0.
        test_top5_accuracy: the top-5 accuracy of the same; null with fewer than six classes.
        test_loss: the cross entropy in nats.
        test_calibration_error: the expected calibration error, with 15 bins; null in segmentation.
        test_correct: the test images that were classified rightly, a bit for each in the order of the data set, see
            :mod:`unified_extractor.results.correct_images`; null in rows of earlier versions.
        test_miou: the mean over classes of intersection over union in all test images together; null but in segmentation.
        test_class_iou: the same of every class by name; null for a class that neither images nor predictions have.
        test_overlaps: the pixels of intersection and union of every class in every test image, see
            :mod:`unified_extractor.results.image_overlaps`; null but in segmentation, and in rows of earlier versions.
        val_miou: the validation mIoU of the best epoch; null but in segmentation.
        val_accuracy: the validation accuracy of the best epoch.
        val_loss: the validation loss of the best epoch.
        seconds_per_epoch: median wall time of an epoch's training steps.
        seconds_per_step: median wall time of a training step, data included.
        peak_memory_bytes: on a GPU what torch allocated at most, on a CPU the process's largest resident set, ``None`` on Windows.
        device: the device in words.
        devices: the number of devices.
        precision: the precision by Lightning's name.
        threads: the number of processor threads of torch.
        versions: the versions of the packages that the numbers depend on.
        initial_weights: the file of the weights that training started from, with a digest of its content; null for a random start.
        commit: the commit of the checkout that the package lies in; null without one.
        dirty: whether that checkout was changed; null without one.
        finished: the date and time of the end, ISO 8601, UTC.
        curve: the learning curve, one point an epoch.
        source: the run's folder, or the file and the line of the row; not written into files.
    """

    schema: Literal[2]
    run: Annotated[str, Field(min_length=8)]
    name: str
    question: str
    variant: Annotated[str, Field(min_length=1)]
    budget: str
    dataset: Annotated[str, Field(min_length=1)]
    config_hash: str
    settings_hash: str
    network: str
    specs: list[dict[str, Any]]
    parameters: Count
    multiply_adds: Count
    seed: int
    epochs: Count
    best_epoch: Count
    train_images: Count
    epoch_images: Count
    test_images: Count
    batch_size: Count
    test_accuracy: Fraction | None
    test_top5_accuracy: Fraction | None
    test_loss: Loss | None
    test_calibration_error: Fraction | None
    val_accuracy: Fraction
    val_loss: Loss
    seconds_per_epoch: Seconds
    seconds_per_step: Seconds
    peak_memory_bytes: Count | None
    device: str
    devices: Count
    precision: str
    threads: Count
    versions: dict[str, str]
    commit: str | None
    dirty: bool | None
    finished: str
    curve: list[EpochMetrics]
    initial_weights: str | None = None
    planned_epochs: Count | None = None
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    test_correct: str | None = None
    val_miou: Fraction | None = None
    test_miou: Fraction | None = None
    test_class_iou: dict[str, Fraction | None] | None = None
    test_overlaps: str | None = None
    source: str = dataclasses.field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        names = ["test_accuracy", "test_loss", "test_calibration_error" if self.val_miou is None else "test_miou"]
        if self.planned_epochs is None and self.test_images and None in [getattr(self, name) for name in names]:
            raise ValueError(f"a finished run must have {', '.join(names[:-1])} and {names[-1]}, got null")

    @property
    def score(self) -> str:
        """The metric by which the best epoch was chosen, and by which runs are compared: ``accuracy``, in segmentation ``miou``."""
        return "accuracy" if self.val_miou is None else "miou"

    @property
    def place(self) -> str:
        """The run's folder, or the file and the line of the row; for a row that was not read, the run's own name."""
        return self.source or f"run {self.run}"


_ROW = TypeAdapter(Record)


def as_line(record: Record) -> str:
    """Return the record as one line of JSON, without the line's end."""
    content = asdict(record)
    del content["source"]
    return json.dumps(content, allow_nan=False)


def write_rows(path: Path, records: Iterable[Record]) -> None:
    """Write a file of rows whole or not at all. Raises ``FileExistsError`` rather than overwrite one."""
    if path.exists():
        raise FileExistsError(f"{path} exists: rows are never overwritten")
    write_whole(path, "".join(as_line(record) + "\n" for record in records))


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all, whatever stops the process."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_rows(paths: Sequence[Path]) -> list[Record]:
    """Return all rows of these files, in order, with present hashes and present names in their specs.

    A former hash is looked up in the nearest ``former_hashes.csv``, in the folder of the file or above it. The files stay as they are.

    Raises:
        RecordError: a line that is not a row, a run's second row, or a table of hashes that is none.
    """
    rows: list[Record] = []
    seen: dict[str, str] = {}
    for path in paths:
        try:
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise RecordError(f"{path}: not a file of rows: {error}") from error
        present = present_hashes(path.parent)
        for number, line in enumerate(lines, 1):
            place = f"{path}:{number}"
            row = _row(line, place, present)
            if row.run in seen:
                raise RecordError(f"{place}: the run {row.run} has a row already, {seen[row.run]}")
            seen[row.run] = place
            rows.append(replace(row, source=str(path.parent) if path.name in RUN_FILES else place))
    return rows


def present_hashes(folder: Path) -> Mapping[str, str]:
    """Return the present hash of every former one, by the table in a folder or in the nearest one above it; nothing without a table.

    Raises:
        RecordError: the table has other columns, or other values than two hashes a line.
    """
    here = folder.resolve()
    path = next((found for place in (here, *here.parents) if (found := place / FORMER_HASHES).is_file()), None)
    if path is None:
        return {}
    with path.open(newline="") as file:
        header, *lines = list(csv.reader(file)) or [[]]
    if header != ["former_hash", "hash"] or any(len(line) != 2 for line in lines):
        raise RecordError(f"{path}: must have the columns former_hash and hash")
    return dict(lines)


def _row(line: str, place: str, present: Mapping[str, str]) -> Record:
    try:
        content = json.loads(line)
    except ValueError as error:
        raise RecordError(f"{place}: not a row: {error}") from error
    if isinstance(content, dict) and content.get("schema") != SCHEMA:
        raise RecordError(f"{place}: schema {content.get('schema')}, only {SCHEMA} is understood")
    try:
        row = _ROW.validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise RecordError(f"{place}: not a row: {where}: {first['msg']}{more}") from error
    config, settings = (present.get(own, own) for own in (row.config_hash, row.settings_hash))
    return replace(row, config_hash=config, settings_hash=settings, specs=with_present_names(row.specs, ExtractorSpec))
