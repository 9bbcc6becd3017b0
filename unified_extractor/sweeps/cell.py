"""A cell of a sweep: its command, folder and log, and its state, which is read from the disk."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unified_extractor.sweeps.grid import Grid, Point, as_text
from unified_extractor.sweeps.job import is_locked
from unified_extractor.training.run.checkpoints import CHECKPOINTS
from unified_extractor.training.run.folder import RunFolder

State = Literal["new", "unfinished", "running", "finished"]
LOGS = "logs"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A run of a sweep.

    Attributes:
        point: the place of the cell in the grid.
        name: the name of its folder in the sweep's folder, ``<variant>-<hash of the resolved configuration>``.
        run: the folder of its run.
        arguments: the arguments of ``uniex``.
        log: the file that its command prints into.
        kept: whether a file of rows has its row, so that its folder is not needed.
    """

    point: Point
    name: str
    run: RunFolder
    arguments: tuple[str, ...]
    log: Path
    kept: bool = False

    @property
    def config_hash(self) -> str:
        """Return the hash of the resolved configuration."""
        return self.name.rsplit("-", 1)[-1]

    @property
    def command(self) -> list[str]:
        """Return the command as this interpreter runs it."""
        return [sys.executable, "-m", "unified_extractor", *self.arguments]

    def state(self) -> State:
        """Return how far the cell is: ``running`` whoever started it, ``unfinished`` if there is a checkpoint to go on from."""
        if self.kept or self.run.finished():
            return "finished"
        if is_locked(self.log) or self.run.running():
            return "finished" if self.run.finished() else "running"
        if self.run.current() is None:
            return "new"
        return "finished" if self.run.finished() else "unfinished"

    def epochs_done(self) -> int:
        """Return how many epochs of the current run a checkpoint holds."""
        current = self.run.current()
        files = () if current is None else (current / CHECKPOINTS).glob("epoch_*.ckpt")
        return max((int(file.stem.removeprefix("epoch_")) + 1 for file in files), default=0)


def as_cell(grid: Grid, point: Point, config_hash: str, *, kept: bool = False) -> Cell:
    """Return the cell of a point; ``config_hash`` is that of its configuration, ``kept`` says whether there is a row of it."""
    name = f"{point.variant}-{config_hash}"
    run = f"{grid.name}/{name}"
    arguments = (
        *arguments_without_name(grid, point),
        f"--run.name={run}",
        "--ckpt_path=last",
    )
    folder = Path(grid.root) / grid.name / LOGS
    return Cell(
        point=point,
        name=name,
        run=RunFolder(run, grid.root, grid.name, point.label, grid.budget),
        arguments=("fit", *arguments),
        log=folder / f"{name}.log",
        kept=kept,
    )


def arguments_without_name(grid: Grid, point: Point) -> list[str]:
    """Return the arguments of ``uniex fit`` without the run's name and the checkpoint that it goes on from."""
    by_depth = sorted(point.options.items(), key=lambda option: option[0].count("."))  # a class before its arguments
    return [
        *(f"--config={file}" for file in grid.config),
        *(f"--{option}={as_text(value)}" for option, value in by_depth),
        f"--seed_everything={point.seed}",
        f"--run.root={grid.root}",
        f"--run.question={grid.name}",
        f"--run.variant={point.label}",
        *([f"--run.budget={grid.budget}"] if grid.budget else []),
    ]
