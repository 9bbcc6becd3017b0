"""The file in which a sweep keeps rows: a cell with a row there is finished, wherever it ran, and a cell that finishes gets one."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from unified_extractor.results.choosing import without_test_figures
from unified_extractor.results.record import Record, as_line, read_rows
from unified_extractor.sweeps.cell import LOGS, Cell
from unified_extractor.training.run.folder import RECORD


class KeptRows:
    """Rows that outlast the folders of their runs.

    Args:
        path: the file; ``None`` keeps nothing.
        others: files of rows of other sweeps. A cell whose configuration has a row there is finished too; the row is copied under the
            question and variant of the cell.

    Raises:
        RecordError: a file holds something else.
    """

    def __init__(self, path: Path | None, others: Iterable[Path] = ()) -> None:
        self.path = path
        self._own = {row.config_hash: row for row in read_rows([path])} if path is not None and path.exists() else {}
        self._others = {(row.config_hash, row.budget): row for other in others for row in read_rows([other])}

    @property
    def empty(self) -> bool:
        """Return whether there is no row at all."""
        return not self._own and not self._others

    def row(self, config_hash: str, budget: str) -> Record | None:
        """Return the row of a run of this configuration, if there is one; in the file of another sweep, one of this budget."""
        return self._own.get(config_hash) or self._others.get((config_hash, budget))

    def add(self, cell: Cell) -> None:
        """Add the row of a finished cell, unless it is there; other sweeps of the grid may add at the same time."""
        if self.path is None or cell.config_hash in self._own:
            return
        if folder := cell.run.finished():
            (record,) = read_rows([folder / RECORD])
        elif cell.kept:
            record = replace(
                self._others[cell.config_hash, cell.run.budget], question=cell.run.question, variant=cell.run.variant
            )
            ((record,), _) = without_test_figures([record])
        else:
            return
        lock = cell.run.path.parent / LOGS / "rows.lock"
        for place in (self.path, lock):
            place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, is_singleton=False):
            there = read_rows([self.path]) if self.path.exists() else []
            if record.run not in {row.run for row in there}:
                before = self.path.read_text() if self.path.exists() else ""
                with self.path.open("a") as file:
                    file.write("\n" * (before != "" and not before.endswith("\n")) + as_line(record) + "\n")
        self._own[cell.config_hash] = record
