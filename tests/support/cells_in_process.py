"""Cells of a sweep that are trained in this process: for tests of what a sweep does with their results, not of its workers."""

from __future__ import annotations  # what training needs is imported by the tests that train alone

import shlex
import traceback
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from unified_extractor.sweeps.job import CellJob


class _Ended:
    """A job that has ended with an exit code."""

    def __init__(self, code: int) -> None:
        self._code = code

    def done(self) -> bool:
        return True

    def result(self) -> int:
        return self._code


class InProcess:
    """An executor whose jobs have ended when they are submitted."""

    def submit(self, job: CellJob) -> _Ended:
        """Run the command ``python -m unified_extractor ...`` of a cell to its end."""
        from unified_extractor.__main__ import main
        from unified_extractor.training.run.folder import release_locks

        assert job.command[1:3] == ["-m", "unified_extractor"]
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("a") as log, redirect_stdout(log), redirect_stderr(log):
            print(f"$ {shlex.join(job.command)}")
            try:
                code = main(job.command[3:])
            except Exception:
                traceback.print_exc()
                code = 1
        release_locks()
        return _Ended(code)


@pytest.fixture
def cells_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train the cells of sweeps in this process, which spares each of them the import of torch and Lightning."""
    monkeypatch.setattr("unified_extractor.commands.sweep.make_executor", lambda *_, **__: InProcess())
