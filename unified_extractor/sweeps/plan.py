"""The plan of a sweep: every cell is built and checked as ``fit`` would do it, with its state and the seconds that it would take."""

import os
import shlex
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jsonargparse import Namespace
from lightning.pytorch.utilities.seed import isolate_rng
from rich.table import Table

from unified_extractor.named_specs import specs_line
from unified_extractor.profiling.cost import TRAINING, multiply_adds
from unified_extractor.results.record import Record, RecordError, read_rows
from unified_extractor.spec import ExtractorSpec
from unified_extractor.sweeps.cell import Cell, State, arguments_without_name, as_cell
from unified_extractor.sweeps.grid import Grid, Point, SweepError, points
from unified_extractor.sweeps.kept_rows import KeptRows
from unified_extractor.sweeps.timing import StepTime, schedule, step_time, work_key
from unified_extractor.training import ConfigurationError
from unified_extractor.training.architecture import extractor_line
from unified_extractor.training.cli.planned_run import ParsedRun, PlannedRun
from unified_extractor.training.run.duration import duration
from unified_extractor.training.run.environment import device_name
from unified_extractor.training.run.folder import RECORD
from unified_extractor.training.run.settings_hash import config_hash

_AT_MOST_START_UP = 30.0


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """A cell, what it costs, and how far it is.

    Attributes:
        cell: the cell.
        extractor: the extractor in a line: the nearest preset, and how it differs; empty if the network has none.
        parameters: the parameters of the network.
        multiply_adds: the multiply-adds of one image, forward.
        training_multiply_adds: the multiply-adds of the whole run: three times forward for every image of every epoch.
        epochs: the epochs of the whole run.
        seconds: the seconds of the whole run, start-up included; ``None`` if its device is not here.
        device: the device in words, or the reason why it is not known.
        gpus: the number of GPUs that it takes; 0 on the CPU, or if it chooses them itself.
        state: the state of the cell when it was planned.
        epochs_done: the epochs that were done when it was planned.
    """

    cell: Cell
    extractor: str
    parameters: int
    multiply_adds: int
    training_multiply_adds: int
    epochs: int
    seconds: float | None
    device: str
    gpus: int
    state: State
    epochs_done: int

    def left(self, state: State, epochs_done: int) -> float:
        """Return the fraction of the run that is still to do."""
        if state == "finished":
            return 0.0
        return 1 - min(1.0, epochs_done / self.epochs) if self.epochs and state != "new" else 1.0

    @property
    def seconds_left(self) -> float | None:
        """Return the seconds that are still to do, ``None`` if they are not known."""
        return None if self.seconds is None else self.seconds * self.left(self.state, self.epochs_done)


def plan_cells(grid: Grid, *, elsewhere: bool = False, kept: KeptRows | None = None) -> list[PlannedCell]:
    """Return every cell of a grid, built, checked and costed. Nothing is written, and nothing of this process stays changed.

    With ``elsewhere`` cells may need devices that only another machine has. What has a row in ``kept`` is finished.

    Raises:
        SweepError: a cell whose configuration ``fit`` would refuse, or two cells with one configuration.
    """
    warnings.filterwarnings("ignore", message=r"The `srun` command is available")  # jobs will use it
    planner = _Planner(grid, elsewhere, kept or KeptRows(None))
    cells: dict[str, PlannedCell] = {}
    for point in points(grid):
        found = planner.plan(point)
        other = cells.setdefault(found.cell.config_hash, found)
        if other is not found:
            raise SweepError(f"cells {other.cell.point} and {point}: have the same configuration")
    return planner.with_measured(list(cells.values()))


class _Planner:
    """A planner of one cell after the other, which builds, counts and times only once what cells have in common."""

    def __init__(self, grid: Grid, elsewhere: bool, kept: KeptRows) -> None:
        self._grid, self._elsewhere, self._kept = grid, elsewhere, kept
        self._multiply_adds: dict[str, int] = {}
        self._times: dict[str, StepTime] = {}
        self._start_up: float | None = None
        self._before: PlannedRun | None = None
        self._parsed: dict[str, ParsedRun] = {}
        self._variants: dict[str, tuple[Namespace, PlannedCell]] = {}

    def plan(self, point: Point) -> PlannedCell:
        """Return a cell with its costs: those in its row if it has one, for which nothing is built and no image read."""
        with _undisturbed():
            if (found := self._kept_row(point)) is not None:
                return _finished(as_cell(self._grid, point, found.config_hash, kept=True), found)
            settings, first = self._variants.get(point.label) or self._built(point)
            settings.seed_everything = point.seed
            cell = as_cell(self._grid, point, config_hash(settings))
            state = cell.state()
            if first.seconds == 0 and state != "finished":  # the seeds before were finished, so that no step was timed
                _, first = self._built(point)
            done = cell.epochs_done() if state in ("unfinished", "running") else 0
            return replace(first, cell=cell, state=state, epochs_done=done)

    def _built(self, point: Point) -> tuple[Namespace, PlannedCell]:
        """Return the settings of a point's variant and its cell at the point's seed, and keep both for the seeds that follow.

        The cell's seconds are 0 if there is nothing to do in it: no step is timed for that.
        """
        run = self._planned(point)
        if self._start_up is None:  # what this process has done so far is about what fit does before its first step
            self._start_up = min(time.process_time(), _AT_MOST_START_UP)
        cell = as_cell(self._grid, point, run.config_hash)
        key, work, state = work_key(run), schedule(run), cell.state()
        if key not in self._multiply_adds:
            self._multiply_adds[key] = multiply_adds(run.module.network, run.data.image_shape)
        if key not in self._times and state != "finished" and not run.device_missing:
            self._times[key] = step_time(run, self._multiply_adds[key])
        seconds = self._start_up + self._times[key].run(work) if key in self._times else 0.0
        planned_cell = PlannedCell(
            cell=cell,
            extractor=extractor_line(run.module.network),
            parameters=sum(parameter.numel() for parameter in run.module.network.parameters()),
            multiply_adds=self._multiply_adds[key],
            training_multiply_adds=TRAINING * self._multiply_adds[key] * work.images * work.epochs,
            epochs=work.epochs,
            seconds=None if run.device_missing else seconds,
            device=run.device_missing or device_name(run.trainer.strategy.root_device),
            gpus=1 if "cuda" in str(run.trainer.strategy.root_device) and run.settings.trainer.devices in (1, "1") else 0,
            state=state,
            epochs_done=0,
        )
        self._variants[point.label] = run.settings, planned_cell
        return run.settings, planned_cell

    def with_measured(self, cells: Sequence[PlannedCell]) -> list[PlannedCell]:
        """Return the cells with the seconds of finished cells of the same variant and device, where there are any, as estimate."""
        measured: dict[tuple[str, str], list[float]] = {}
        for planned_cell in cells:
            if planned_cell.state == "finished" and (run := _finished_seconds(planned_cell.cell)):
                record, seconds = run
                measured.setdefault((planned_cell.cell.point.label, record.device), []).append(seconds)
        start_up = self._start_up or 0.0
        result = []
        for planned_cell in cells:
            found = measured.get((planned_cell.cell.point.label, planned_cell.device))
            if found and planned_cell.seconds is not None:
                planned_cell = replace(planned_cell, seconds=start_up + statistics.median(found))
            result.append(planned_cell)
        return result

    def _kept_row(self, point: Point) -> Record | None:
        """Return the row of a cell, if it is kept."""
        if self._kept.empty:
            return None
        settings = self._parse(point).settings
        settings.seed_everything = point.seed
        return self._kept.row(config_hash(settings), settings.run.budget)

    def _parse(self, point: Point) -> ParsedRun:
        """Return a point's run, not built. Points that differ in the seed alone are parsed once."""
        if point.label not in self._parsed:
            arguments = [*arguments_without_name(self._grid, point), f"--run.name={self._grid.name}/{point.variant}"]
            with _of_cell(point):
                self._parsed[point.label] = ParsedRun(arguments)
        return self._parsed[point.label]

    def _planned(self, point: Point) -> PlannedRun:
        parsed = self._parse(point)
        with _of_cell(point):
            run = self._before = parsed.built(elsewhere=self._elsewhere, after=self._before)
        trainer = run.settings.trainer
        if trainer.fast_dev_run or trainer.enable_checkpointing is False:
            setting = "fast_dev_run" if trainer.fast_dev_run else "enable_checkpointing=false"
            raise SweepError(f"cell {point}: trainer.{setting}: such a run leaves no record, it would never be finished")
        return run


@contextmanager
def _of_cell(point: Point) -> Iterator[None]:
    """Name the cell in what refuses it."""
    try:
        yield
    except ConfigurationError as error:
        raise SweepError(f"cell {point}: {error}") from error


def plan_table(cells: Sequence[PlannedCell]) -> Table:
    """Return a table with a line for every cell."""
    table = Table("variant", "seed", "state")
    for title in ("parameters", "multiply-adds", "seconds left"):
        table.add_column(title, justify="right")
    for planned_cell in cells:
        state = planned_cell.state
        if state in ("unfinished", "running"):
            state_text = f"{state} ({planned_cell.epochs_done} of {planned_cell.epochs} epochs)"
        else:
            state_text = state
        seconds = planned_cell.seconds_left
        table.add_row(
            planned_cell.cell.point.label,
            str(planned_cell.cell.point.seed),
            state_text,
            f"{planned_cell.parameters:,}",
            f"{planned_cell.multiply_adds:,}",
            "unknown" if seconds is None else f"{seconds:,.0f}",
        )
    return table


def extractor_lines(cells: Sequence[PlannedCell]) -> list[str]:
    """Return the extractor of every variant in a line each; cells that differ in their seed alone share one."""
    lines = {cell.cell.point.label: cell.extractor for cell in cells if cell.extractor}
    return [f"{label}: {line}" for label, line in lines.items()]


def plan_total(cells: Sequence[PlannedCell], workers: int) -> str:
    """Return the size and cost of the sweep in a line or two."""
    open_cells = [planned_cell for planned_cell in cells if planned_cell.state != "finished"]
    work = sum(c.training_multiply_adds * c.left(c.state, c.epochs_done) for c in open_cells)
    lines = [f"{len(cells)} cells, {len(cells) - len(open_cells)} finished; to do: {work:.3g} multiply-adds of training"]
    if missing := sorted({c.device for c in open_cells if c.seconds is None}):
        lines.append(f"how long that takes is not known here: {'; '.join(missing)}")
    known = [c.seconds_left for c in open_cells if c.seconds_left is not None]
    if known:
        devices = ", ".join(sorted({c.device for c in open_cells if c.seconds is not None}))
        side_by_side = max(sum(known) / workers, max(known))
        lines.append(
            f"estimated on this machine ({devices}): {duration(sum(known))}, with {workers} at once about {duration(side_by_side)}"
        )
    return "\n".join(lines)


def commands(cells: Sequence[PlannedCell]) -> list[str]:
    """Return the command of every cell, as a person would type it."""
    return [shlex.join(["uniex", *planned_cell.cell.arguments]) for planned_cell in cells]


def _finished(cell: Cell, row: Record) -> PlannedCell:
    """Return a cell that has a row, with the costs of that run."""
    return PlannedCell(
        cell=cell,
        extractor=specs_line([ExtractorSpec(**spec) for spec in row.specs]) if row.specs else "",
        parameters=row.parameters,
        multiply_adds=row.multiply_adds,
        training_multiply_adds=3 * row.multiply_adds * row.epoch_images * row.epochs,
        epochs=row.epochs,
        seconds=row.seconds_per_epoch * row.epochs,
        device=row.device,
        gpus=0,
        state="finished",
        epochs_done=row.epochs,
    )


def _finished_seconds(cell: Cell) -> tuple[Record, float] | None:
    """Return the record of a finished cell and the seconds that it took: to its record, or in its training steps if it was resumed."""
    folder = cell.run.finished()
    if folder is None:
        return None
    try:
        record = read_rows([folder / RECORD])[0]
    except (RecordError, IndexError):
        return None
    seconds = record.seconds_per_epoch * record.epochs
    starts = list(Path(folder).glob("environment*.json"))
    if len(starts) == 1:
        seconds = max(seconds, (folder / RECORD).stat().st_mtime - starts[0].stat().st_mtime)
    return record, seconds


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Restore random state, threads and environment afterwards: a planned run sets them as ``fit`` would."""
    variables, threads = dict(os.environ), torch.get_num_threads()
    try:
        with isolate_rng():
            yield
    finally:
        torch.set_num_threads(threads)
        os.environ.clear()
        os.environ.update(variables)
