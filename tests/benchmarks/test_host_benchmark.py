"""``uniex bench host``: every backend that runs here is timed beside torch's convolution; Triton's kernels are not launched."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from tests.support.backends import COMPLETE, SHARED
from unified_extractor.__main__ import main
from unified_extractor.benchmarks import host
from unified_extractor.ops.backends.eager import Eager


def test_bench_host_writes_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    output = tmp_path / "host.json"
    assert main(["bench", "host", "--repeats", "2", "--threads", "1", "--output", str(output)]) == 0
    result = json.loads(output.read_text())
    times = result["microseconds"]
    assert {host.BASELINE, host.NOTHING} | (COMPLETE & set(SHARED)) <= set(times)
    for found in times.values():
        assert 0 < found["forward"]["median"] < found["forward_backward"]["median"]
    table = output.with_suffix(".md").read_text()
    assert table in capsys.readouterr().out
    assert f"{times['eager']['forward_backward']['median'] / times[host.BASELINE]['forward_backward']['median']:.2f}" in table


def test_a_backend_that_refuses_the_call_is_not_measured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(host, "_stubbed_triton", lambda repeats: None)
    monkeypatch.setattr(host, "_CALLS", 1)
    monkeypatch.setattr(Eager, "refuses_because", lambda self, call: "it runs folds only")
    times = host.measured(1)["microseconds"]
    assert "reference" in times
    assert "eager" not in times


def test_the_committed_table_is_that_of_the_committed_measurement():
    folder = Path(__file__).parents[2] / "benchmarks"
    result = json.loads((folder / "host.json").read_text())
    assert host.markdown(result) == (folder / "host.md").read_text()
    times = result["microseconds"]
    assert times["compiled"]["forward_backward"]["median"] <= times[host.BASELINE]["forward_backward"]["median"]


def test_cases_cannot_be_chosen_where_there_is_one(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(["bench", "host", "--only", "compiled"])
    assert stop.value.code == 2
    assert "--only chooses among cases, and host has one" in capsys.readouterr().err


def test_the_process_of_the_triton_row_has_as_many_threads_as_the_others(monkeypatch: pytest.MonkeyPatch):
    seen: list[str] = []

    def run(command: list[str], *, env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        seen.append(env["OMP_NUM_THREADS"])
        return subprocess.CompletedProcess(command, 0, stdout="null\n")

    monkeypatch.setattr("unified_extractor.benchmarks.host.subprocess.run", run)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert host._stubbed_triton(1) is None
    assert seen == ["3"]
