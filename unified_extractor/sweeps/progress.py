"""The progress of a sweep: a bar on a terminal, a line for every event elsewhere."""

import time
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress

from unified_extractor.sweeps.plan import PlannedCell
from unified_extractor.training.run.duration import duration


class Progress:
    """The display of how far a sweep is. Cells weigh by their estimated cost; epochs that running cells have done count.

    Args:
        cells: all cells of the sweep.
        workers: the number of cells at once.
        console: the terminal or file to write on.
    """

    def __init__(self, cells: Sequence[PlannedCell], *, workers: int, console: Console) -> None:
        self._cells, self._workers, self._console = list(cells), workers, console
        known = all(planned.seconds is not None for planned in cells)
        self._weights = {
            planned.cell.name: planned.seconds if known and planned.seconds else float(planned.training_multiply_adds)
            for planned in cells
        }
        self._known = known
        self._start = time.monotonic()
        self._left_at_start: float | None = None
        self._bar: RichProgress | None = None
        if console.is_terminal:
            columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f}%")]
            self._bar = RichProgress(*columns, TextColumn("{task.fields[remaining]}"), console=console)
            self._task = self._bar.add_task("", total=sum(self._weights.values()), remaining="")

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def event(self, text: str) -> None:
        """Print a line about a cell."""
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._console.file, flush=True)

    def show(self, open_cells: Mapping[str, PlannedCell], *, running: Collection[str], failed: int) -> None:
        """Show the state of the sweep: the cells that are still open, and the names of those that run."""
        if self._bar is None:
            return
        left = self.left(open_cells, running)
        if self._left_at_start is None:
            self._left_at_start = left
        done = len(self._cells) - len(open_cells) - failed
        total = sum(self._weights.values())
        description = f"{done} of {len(self._cells)} done, {len(running)} running, {failed} failed"
        self._bar.update(self._task, completed=total - left, description=description, remaining=self._remaining(left))

    def left(self, open_cells: Mapping[str, PlannedCell], running: Collection[str]) -> float:
        """Return the weight of what is still to do."""
        left = 0.0
        for name, planned in open_cells.items():
            runs = name in running
            epochs = planned.cell.epochs_done() if runs else planned.epochs_done
            left += self._weights[name] * planned.left("running" if runs else planned.state, epochs)
        return left

    def _remaining(self, left: float) -> str:
        """Return the time left in words, by the pace so far, or by the estimate as long as there is no pace."""
        passed, done = time.monotonic() - self._start, (self._left_at_start or left) - left
        if self._left_at_start and done > 0.1 * self._left_at_start:
            return f"about {duration(left * passed / done)} left"
        return f"about {duration(left / self._workers)} left" if self._known else ""
