"""Running the cells of a sweep until each is finished or has failed for good. The disk says which are finished or run."""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from unified_extractor.sweeps.cell import Cell
from unified_extractor.sweeps.cluster import Cluster, cell_job, visible_gpus
from unified_extractor.sweeps.grid import SweepError
from unified_extractor.sweeps.kept_rows import KeptRows
from unified_extractor.sweeps.plan import PlannedCell
from unified_extractor.sweeps.progress import Progress

_REFUSED = 2
_STOPPED = (128 + signal.SIGTERM, -signal.SIGTERM)
"""Exit codes of a command that SIGTERM stopped, at its next step or while it started."""
_STOP_SECONDS = 20.0
_POLL_SECONDS: dict[Cluster, float] = {"local": 0.3, "debug": 0.0, "slurm": 3.0}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A cell that ended without a record.

    Attributes:
        cell: the cell.
        exit_code: the last exit code of its command, ``None`` if its worker was lost.
        reason: the end in words.
        last_line: the last line of its log.
    """

    cell: Cell
    exit_code: int | None
    reason: str
    last_line: str

    def __str__(self) -> str:
        return f"{self.cell.point}: {self.reason}: {self.last_line or 'nothing was printed'} (log: {self.cell.log})"


@dataclass(frozen=True, kw_only=True)
class _Running:
    job: Any
    slot: int


class Sweep:
    """The cells of a sweep and the jobs that run them.

    Args:
        cells: all cells of the sweep.
        executor: the executor of submitit.
        cluster: the kind of the executor.
        workers: the number of cells at once, with those that another process runs. On SLURM the executor limits them.
        retries: the number of times that a cell that failed is started again.
        progress: the display that is told of every event.
        kept: the file that keeps the rows of finished cells.
    """

    def __init__(
        self,
        cells: Sequence[PlannedCell],
        executor: Any,
        *,
        cluster: Cluster,
        workers: int,
        retries: int,
        progress: Progress,
        kept: KeptRows | None = None,
    ) -> None:
        self._executor, self._cluster, self._workers, self._retries = executor, cluster, workers, retries
        self._progress, self._kept = progress, kept or KeptRows(None)
        seeds = list(dict.fromkeys(planned.cell.point.seed for planned in cells))
        # every variant's first seed before any's second: what is there of an unfinished sweep compares all of them
        in_turn = sorted(cells, key=lambda planned: seeds.index(planned.cell.point.seed))
        self._open = {planned.cell.name: planned for planned in in_turn}
        self._jobs: dict[str, _Running] = {}
        self._elsewhere: set[str] = set()
        self._failed_times: dict[str, int] = {}
        self.failures: list[Failure] = []

    def run(self) -> list[Failure]:
        """Run to the end and return the cells that failed for good. Interrupted, local cells are stopped; SLURM's stay queued."""
        try:
            self._run()
        except KeyboardInterrupt:
            if self._cluster == "local":
                self._stop()
            elif self._jobs:
                jobs = sorted({running.job.job_id.split("_")[0] for running in self._jobs.values()})
                self._progress.event(f"interrupted: its jobs stay queued; scancel {' '.join(jobs)} ends them")
            raise
        return self.failures

    def _run(self) -> None:
        while self._open:
            for name in [name for name, running in self._jobs.items() if running.job.done()]:
                self._ended(name, self._jobs.pop(name))
            self._start()
            self._progress.show(self._open, running={*self._jobs, *self._elsewhere}, failed=len(self.failures))
            if self._open:
                time.sleep(_POLL_SECONDS[self._cluster])

    def _stop(self) -> None:
        """Stop the running jobs by SIGTERM, sent again and again: a job that is starting does not hear it yet."""
        self._progress.event("interrupted: the running cells stop at their next step")
        end = time.monotonic() + _STOP_SECONDS
        while time.monotonic() < end and (alive := [running.job for running in self._jobs.values() if not running.job.done()]):
            for job in alive:
                job._process.send_signal(signal.SIGTERM)
            time.sleep(0.5)

    def _start(self) -> None:
        """Start what can be started now: on SLURM everything as one array, elsewhere as many as there are workers."""
        self._look()
        waiting = [name for name in self._open if name not in self._jobs and name not in self._elsewhere]
        if self._cluster != "slurm":
            waiting = waiting[: max(0, self._workers - len(self._jobs) - len(self._elsewhere))]
        if not waiting:
            return
        started: dict[str, _Running] = {}
        try:
            with ExitStack() as stack:
                stack.enter_context(_not_interrupted())
                if self._cluster == "slurm":
                    stack.enter_context(self._executor.batch())
                for name in waiting:
                    slot = self._free_slot({**self._jobs, **started})
                    started[name] = _Running(job=self._executor.submit(self._job(self._open[name], slot)), slot=slot)
        except (OSError, RuntimeError) as error:
            raise SweepError(f"--cluster {self._cluster}: cannot submit: {' '.join(str(error).split())}") from error
        self._jobs |= started
        for name in started:
            self._progress.event(f"{'queued' if self._cluster == 'slurm' else 'started'} {self._open[name].cell.point}")

    def _look(self) -> None:
        """Look which of the cells without a job are finished, and which run all the same."""
        for name in [name for name in self._open if name not in self._jobs]:
            cell = self._open[name].cell
            state = cell.state()
            if state == "finished":
                self._finished(name)
            elif state == "running" and name not in self._elsewhere:
                self._elsewhere.add(name)
                self._progress.event(f"waiting for {cell.point}: another process runs it")
            elif state != "running":
                self._elsewhere.discard(name)

    def _ended(self, name: str, running: _Running) -> None:
        cell = self._open[name].cell
        exit_code, elsewhere = _result(running.job)
        state = cell.state()
        if state == "finished":
            self._finished(name)
        elif state != "running" and not elsewhere:
            self._unfinished(name, running.job, exit_code)

    def _unfinished(self, name: str, job: Any, exit_code: int | None) -> None:
        """Queue a cell again that the cluster stopped, which is no failure; leave out one whose job a person cancelled."""
        if self._cluster == "slurm" and (exit_code is None or exit_code in _STOPPED):
            from unified_extractor.sweeps.slurm import end_of, was_taken_back

            slurm_state = end_of(job)
            if slurm_state == "CANCELLED":
                return self._give_up(name, exit_code, "its job was cancelled")
            if was_taken_back(slurm_state) or (exit_code is not None and slurm_state != "TIMEOUT"):
                return self._progress.event(f"stopped {self._open[name].cell.point}: the cluster took its machine back; goes on")
        return self._failed(name, exit_code)

    def _finished(self, name: str) -> None:
        self._elsewhere.discard(name)
        cell = self._open.pop(name).cell
        self._kept.add(cell)
        self._progress.event(f"finished {cell.point}")

    def _failed(self, name: str, exit_code: int | None) -> None:
        cell = self._open[name].cell
        times = self._failed_times[name] = self._failed_times.get(name, 0) + 1
        if times <= self._retries and exit_code != _REFUSED:
            self._progress.event(f"failed {cell.point}: {exit_words(exit_code)}; retry {times} of {self._retries}")
        else:
            self._give_up(name, exit_code, exit_words(exit_code))

    def _give_up(self, name: str, exit_code: int | None, reason: str) -> None:
        cell = self._open.pop(name).cell
        self.failures.append(Failure(cell=cell, exit_code=exit_code, reason=reason, last_line=_last_line(cell)))
        self._progress.event(f"failed {cell.point}: {reason}")

    def _job(self, planned: PlannedCell, slot: int) -> Any:
        gpus = visible_gpus() if planned.gpus else []
        return cell_job(planned.cell, gpu=gpus[slot % len(gpus)] if len(gpus) > 1 else None, local=self._cluster != "slurm")

    @staticmethod
    def _free_slot(running: dict[str, _Running]) -> int:
        taken = {entry.slot for entry in running.values()}
        return next(slot for slot in range(len(taken) + 1) if slot not in taken)


@contextmanager
def _not_interrupted() -> Iterator[None]:
    """Keep Ctrl-C from processes that are started here: submitit's would die with a traceback. The sweep stops them itself."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def exit_words(exit_code: int | None) -> str:
    """Return an exit code in words."""
    if exit_code is None:
        return "its worker was lost"
    if exit_code < 0:
        return f"killed by signal {-exit_code}"
    return f"exit code {exit_code}" if exit_code else "stopped before its end"


def _result(job: Any) -> tuple[int | None, bool]:
    """Return the exit code of a job, and whether it found another process at work instead."""
    from submitit.core.utils import UncompletedJobError

    try:
        exit_code: int | None = job.result()
    except UncompletedJobError:
        return None, False
    return exit_code, exit_code is None


def _last_line(cell: Cell) -> str:
    try:
        lines = cell.log.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
