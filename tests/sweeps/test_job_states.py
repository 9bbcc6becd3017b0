"""What a sweep makes of the states of SLURM's jobs, without SLURM."""

from collections.abc import Iterator

import pytest

from unified_extractor.sweeps import slurm


class _Job:
    """A job whose state is asked for again and again; the last one stays."""

    job_id = "7_0"

    def __init__(self, *states: str) -> None:
        self._states: Iterator[str] = iter(states)
        self._state = ""
        self.watcher = self

    def get_state(self, job_id: str, mode: str) -> str:
        assert (job_id, mode) == ("7_0", "force")
        self._state = next(self._states, self._state)
        return self._state


@pytest.mark.parametrize(
    ("states", "end", "taken_back"),
    [
        (["CANCELLED by 1000"], "CANCELLED", False),
        (["COMPLETING", "COMPLETING", "CANCELLED"], "CANCELLED", False),
        (["RUNNING", "COMPLETING", "PENDING"], "PENDING", True),
        (["COMPLETING", "PREEMPTED"], "PREEMPTED", True),
        (["COMPLETING", "REQUEUED"], "REQUEUED", True),
        (["COMPLETING", "TIMEOUT"], "TIMEOUT", False),
        ([""], "UNKNOWN", False),
    ],
)
def test_the_end_of_a_job_is_waited_for(states: list[str], end: str, taken_back: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(slurm.time, "sleep", lambda seconds: None)
    assert slurm.end_of(_Job(*states)) == end
    assert slurm.was_taken_back(end) == taken_back


def test_a_job_that_never_ends_is_waited_for_a_minute(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(slurm.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(slurm.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    assert slurm.end_of(_Job("COMPLETING")) == "COMPLETING"
    assert 60 <= now[0] <= 61
