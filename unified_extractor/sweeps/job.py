"""The job of a worker: a cell's command as a process of its own. Standard library only: workers start without loading torch.

A cell's log is locked by whoever writes it. The lock is the operating system's and belongs to the command too, so that it outlives
a worker that is killed, and ends with the last of the two, however they end. Windows has no such lock.
"""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

_STOP_SECONDS = 60.0
"""Seconds that a command has to stop after SIGTERM; SLURM gives 90 before it kills."""
_TRIES = 10


class CellJob:
    """Runs a command and returns its exit code, negative for a signal, or ``None`` if another process writes the log.

    Args:
        command: program and arguments.
        log: file for what it prints; appended to.
        folder: where it runs.
        environment: variables to set, or with ``None`` to remove.
    """

    def __init__(self, command: Sequence[str], log: Path, folder: Path, environment: Mapping[str, str | None]) -> None:
        self.command, self.log, self.folder, self.environment = list(command), log, folder, dict(environment)
        self._child: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int | None:
        """Run the command to its end."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab", buffering=0) as log:
            if not _locked(log):
                return None
            log.write(f"$ {shlex.join(self.command)}\n".encode())
            self._child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=self._variables(),
                preexec_fn=_ignore_requeue_signal,
            )
            signal.signal(signal.SIGTERM, self._forward)
            while self._child.poll() is None:  # a blocking wait would hold the lock that checkpoint() needs
                time.sleep(0.1)
            return self._child.returncode

    def checkpoint(self) -> Any:
        """Stop the command and queue the same job again: submitit calls this when the cluster takes the machine back."""
        from submitit.helpers import DelayedSubmission

        if self._child is not None:
            _stop(self._child.pid)
        return DelayedSubmission(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_child": None}

    def _variables(self) -> dict[str, str]:
        changed = {**os.environ, **self.environment}
        return {name: value for name, value in changed.items() if value is not None}

    def _forward(self, number: int, frame: Any) -> None:
        if self._child is not None:
            self._child.send_signal(number)


def is_locked(log: Path) -> bool:
    """Return whether a worker, or a command that outlived its worker, writes this log."""
    import fcntl

    try:
        with log.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _locked(log: IO[bytes]) -> bool:
    import fcntl

    for _ in range(_TRIES):  # somebody who only looks holds it for an instant
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.05)
    return False


def _ignore_requeue_signal() -> None:
    """Ignore the signal by which submitit requeues: SLURM sends it to every process of a job, and it would kill the command."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def _stop(pid: int) -> None:
    """Stop a process by SIGTERM, after a time by SIGKILL. Its exit code is left for the ``poll`` of whoever started it."""
    try:
        os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + _STOP_SECONDS
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
    except (ProcessLookupError, ChildProcessError):
        return
