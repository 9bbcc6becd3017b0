"""``uniex gpu``: its parts run in turn within a time limit, write as they go, and are skipped when they are complete."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.support.triton_interpreter import patch_the_language_once_a_launch
from unified_extractor.__main__ import main
from unified_extractor.benchmarks import cases, rivals
from unified_extractor.benchmarks.gpu import gpu_tests, parts, speed, values
from unified_extractor.benchmarks.gpu import run_part as work
from unified_extractor.benchmarks.gpu.parts import PARTS, Part, run_all
from unified_extractor.benchmarks.gpu.results import Results, is_complete

pytest.importorskip("triton", reason="Triton is not installed")
if not torch.cuda.is_available():
    patch_the_language_once_a_launch()


def test_the_list_says_what_would_run_and_nothing_runs(in_empty_folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["gpu", "--list", "--only", "values", "tests"]) == 0
    text = capsys.readouterr().out
    assert [line.split()[0] for line in text.splitlines()[:2]] == ["values", "tests"]
    assert not list(in_empty_folder.iterdir())
    assert sum(part.seconds for part in PARTS) <= 680  # a part that is cut short leaves time to those behind it


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_ends_in_a_line(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["gpu"])
    assert ended.value.code == 2
    assert "--toy" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="the toy runs in Triton's interpreter")
def test_the_toy_runs_every_part_and_then_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(parts, "_run", partial(_in_this_process, monkeypatch))
    assert main(["gpu", "--toy", "--output", str(tmp_path)]) == 0
    capsys.readouterr()
    for part in PARTS[1:]:
        assert is_complete(tmp_path / f"{part.name}.json", toy=True), part.name
    found = json.loads((tmp_path / "values.json").read_text())
    assert {row["call"] for row in found["values"]} == set(values.TOY)
    assert not [row for row in found["values"] if row["failed"]]
    row = json.loads((tmp_path / "speed-float32.json").read_text())["cases"][0]["candidates"][cases.OURS]
    assert row["forward_backward_ms"]["median"] > 0
    found = json.loads((tmp_path / "tests.json").read_text())
    assert all(state["code"] == 0 and state["counts"] == {"PASSED": 1, "FAILED": 1} for state in found["rounds"].values())
    assert main(["gpu", "--toy", "--output", str(tmp_path), "--only", "values", "counters"]) == 0
    assert capsys.readouterr().out.count("complete before, skipped") == 2


def _in_this_process(monkeypatch: pytest.MonkeyPatch, part: Part, folder: Path, seconds: float, toy: bool) -> parts.Outcome:
    command = [sys.executable, "-c", "print('test_a PASSED'); print('test_b FAILED')"]
    monkeypatch.setattr(gpu_tests, "_progress", lambda _, progress=gpu_tests._progress: progress(command))
    work.WORKS[part.name](folder, toy)
    return parts.Outcome(part.name, "complete", False)


def test_a_part_that_takes_too_long_is_ended_and_keeps_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parts, "LEAST", 0)
    monkeypatch.setattr(sys, "executable", str(_program(tmp_path)))
    began = time.monotonic()
    outcomes = list(run_all([Part("slow", 2, "")] * 2, tmp_path, 3, toy=True))
    assert time.monotonic() - began < 20
    assert [outcome.failed for outcome in outcomes] == [True, True]
    assert "what it had is kept" in outcomes[0].text
    assert (tmp_path / "slow.json").exists()
    assert not is_complete(tmp_path / "slow.json", toy=True)


def _program(folder: Path) -> Path:
    """Return a program that writes an incomplete file and then waits, whatever its arguments."""
    program = folder / "program"
    program.write_text(f"#!/bin/sh\ntouch {folder}/slow.json\nsleep 60\n")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("changed", [{"complete": False}, {"device": "another"}, {"sources": "others"}, {"toy": False}])
def test_only_a_whole_file_of_this_device_and_these_sources_is_complete(tmp_path: Path, changed: dict[str, object]):
    results = Results(tmp_path / "values.json", toy=True)
    results.write(complete=True)
    assert is_complete(results.file, toy=True)
    results.write(**changed)
    assert not is_complete(results.file, toy=True)


def test_a_wrong_value_is_seen(monkeypatch: pytest.MonkeyPatch):
    extract: Callable[..., torch.Tensor] = values.extract

    def wrong(backend: str, **call: object) -> torch.Tensor:
        y = extract(**call, backend="eager" if backend == "triton" else backend)
        return y * 1.001 if backend == "triton" else y

    monkeypatch.setattr(values, "extract", wrong)
    call = values.made(values.CALLS["residual"], torch.float32, "cpu", channels_last=True)
    failed = values._errors(call, torch.float32, ordered=False)["failed"]
    assert failed.startswith("too wrong: output, x, static_kernel")


def test_every_call_is_legal():
    for options in values.CALLS.values():
        call = values.made(options | {"batch": 1}, torch.float32, "cpu", channels_last=True)
        assert values.extract(**call, backend="eager").isfinite().all()


def test_a_case_that_fails_does_not_end_the_part(tmp_path: Path):
    def fails() -> cases.Case:
        raise RuntimeError("an illegal memory access")

    tiny = partial(cases.involution, 16, 3, 1, setting=cases.Setting(backend="eager"))
    speed._run(tmp_path / "speed.json", {"bad": fails, "good": tiny}, lambda label: label == cases.OURS, toy=True)
    found = json.loads((tmp_path / "speed.json").read_text())
    assert found["failures"] == ["bad: an illegal memory access"]
    assert [list(case["candidates"]) for case in found["cases"]] == [[cases.OURS]]


def test_a_case_that_an_earlier_run_measured_is_not_measured_again(tmp_path: Path):
    earlier = Results(tmp_path / "speed.json", toy=True)
    earlier.write(cases=[{"name": "measured"}])
    tiny = partial(cases.involution, 16, 3, 1, setting=cases.Setting(backend="eager"))
    speed._run(earlier.file, dict.fromkeys(("measured", "new"), tiny), lambda label: label == cases.OURS, toy=True)
    assert [case["name"] for case in json.loads(earlier.file.read_text())["cases"]] == ["measured", "new"]


def test_rivals_are_looked_for_and_none_is_needed():
    assert set(rivals.installed()) == set(rivals.PACKAGES)
    assert not [name for name in rivals.cases(1) if rivals.installed()["natten" if "neigh" in name else "dcnv4"] is None]


def test_it_needs_no_package_of_training_runs():
    """A machine with a GPU may lack what the command line of training needs."""
    missing = ("jsonargparse", "omegaconf", "pydantic", "submitit", "torchdata", "natten")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({missing!r}))\n"
        "import unified_extractor.benchmarks.gpu.speed, unified_extractor.commands.bench\n"
        "from unified_extractor.__main__ import main\n"
        "assert main(['gpu', '--list']) == 0\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
