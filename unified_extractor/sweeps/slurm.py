"""The states of jobs on SLURM: from ``sacct``, as submitit asks for them, or from ``squeue`` on clusters that keep no accounts."""

import subprocess
import time
from typing import Any

from submitit.slurm.slurm import SlurmInfoWatcher, SlurmJob
from typing_extensions import override

_POLL_SECONDS = 60
"""The longest time between two looks into the queue. SLURM keeps ended jobs there for ``MinJobAge``, five minutes by default."""
_TAKEN_BACK = ("BOOT_FAIL", "NODE_FAIL", "PREEMPTED")
"""The states of a job that the cluster ended for reasons of its own; it may queue the job again."""
_ENDING = ("COMPLETING", "RUNNING")
"""The states of a job whose command has ended, until SLURM says how."""
_ENDING_SECONDS = 60.0
_QUEUED = ("COMPLETING", "CONFIGURING", "PENDING", "REQUEUED", "RUNNING", "SUSPENDED")
_ENDED = ("CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "OUT_OF_MEMORY", "TIMEOUT")


class QueueWatcher(SlurmInfoWatcher):
    """The states of jobs by ``squeue``. A job that has left the queue keeps its last state there and has ended."""

    @override
    def _make_command(self) -> list[str] | None:
        if not self._registered - self._finished:
            return None
        return ["squeue", "--me", "--array", "--states=all", "--noheader", "--format=%i|%T"]

    @override
    def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
        text = string if isinstance(string, str) else string.decode()
        states = dict(line.split("|", 1) for line in text.splitlines())
        left = {job: self._info_dict.get(job, {}) | {"Left": "yes"} for job in self._registered - states.keys()}
        return left | {job: {"State": states[job]} for job in self._registered & states.keys()}

    @override
    def is_done(self, job_id: str, mode: str = "standard") -> bool:
        info = self.get_info(job_id, mode=mode)
        return "Left" in info or info.get("State") in _ENDED


def watch_jobs() -> None:
    """Let submitit's jobs read their states from the queue where ``sacct`` tells none."""
    if subprocess.run(["sacct", "--noheader", "--jobs=1"], capture_output=True, check=False).returncode:
        SlurmJob.watcher = QueueWatcher(delay_s=_POLL_SECONDS)  # of the class: the jobs of an array take it from there


def end_of(job: Any) -> str:
    """Return SLURM's word for how a job whose command has ended came to its end, or that it is queued again.

    A cancelled job is ``COMPLETING`` for some seconds, as one that will be queued again is: what it becomes is waited for.
    """
    latest = time.monotonic() + _ENDING_SECONDS
    while (state := _state_of(job)) in _ENDING and time.monotonic() < latest:
        time.sleep(1.0)
    return state


def _state_of(job: Any) -> str:
    """Return SLURM's word for the state of a job, without who cancelled it: ``CANCELLED``, not ``CANCELLED by 1000``."""
    words = str(job.watcher.get_state(job.job_id, mode="force")).split()
    return words[0] if words else "UNKNOWN"


def was_taken_back(state: str) -> bool:
    """Return whether the cluster ended a job of this state, or has queued it again, for reasons of its own."""
    return state in (*_TAKEN_BACK, *_QUEUED)
