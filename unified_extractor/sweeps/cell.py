"""One cell of a sweep: its command, its folder, its log, and its state, which the disk alone knows."""

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
        point: its place in the grid.
        name: its folder below the sweep's: ``<variant>-<hash of the resolved configuration>``.
        run: its folder.
        arguments: of ``uniex``.
        log: what its command prints.
        kept: whether its row is kept elsewhere, so that its folder is not needed.
    """

    point: Point
    name: str
    run: RunFolder
    arguments: tuple[str, ...]
    log: Path
    kept: bool = False

    @property
    def config_hash(self) -> str:
        """Of the resolved configuration."""
        return self.name.rsplit("-", 1)[-1]

    @property
    def command(self) -> list[str]:
        """The command as this interpreter runs it."""
        return [sys.executable, "-m", "unified_extractor", *self.arguments]

    def state(self) -> State:
        """``running`` wherever it runs, and whoever started it; ``unfinished`` if there is a checkpoint to go on from."""
        if self.kept or self.run.finished():
            return "finished"
        if is_locked(self.log) or self.run.running():
            return "finished" if self.run.finished() else "running"
        if self.run.current() is None:
            return "new"
        return "finished" if self.run.finished() else "unfinished"

    def epochs_done(self) -> int:
        """Epochs of the current run that a checkpoint holds."""
        current = self.run.current()
        files = () if current is None else (current / CHECKPOINTS).glob("epoch_*.ckpt")
        return max((int(file.stem.removeprefix("epoch_")) + 1 for file in files), default=0)


def as_cell(grid: Grid, point: Point, config_hash: str, *, kept: bool = False) -> Cell:
    """The cell at a point, whose configuration has this hash and perhaps a row that is ``kept``."""
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
    """Of ``uniex fit``: everything but where the run lies and where it goes on."""
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
