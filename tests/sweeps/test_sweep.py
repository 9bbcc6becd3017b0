"""Sweeps that run: every cell is trained once, whatever is killed in between."""

import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from submitit.core.utils import UncompletedJobError

from tests.support.cells_in_process import InProcess
from tests.support.grids import REPOSITORY, callback, heed_interrupts, write_grid
from unified_extractor.__main__ import main
from unified_extractor.results.record import as_line, read_rows, write_rows
from unified_extractor.sweeps.cell import Cell
from unified_extractor.sweeps.cluster import cell_job, make_executor
from unified_extractor.sweeps.grid import read_grid
from unified_extractor.sweeps.job import CellJob, is_locked
from unified_extractor.sweeps.plan import plan_cells
from unified_extractor.sweeps.progress import Progress
from unified_extractor.sweeps.running import Sweep
from unified_extractor.training.run.folder import release_locks

WAITING = 90.0


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


def cells_of(file: Path) -> list[Cell]:
    return [planned.cell for planned in plan_cells(read_grid(file))]


def records(cell: Cell) -> list[dict[str, Any]]:
    """Return the records of every version of the cell's run."""
    return [json.loads((folder / "record.json").read_text()) for folder in sorted(cell.run.path.glob("version_*"))]


def wait_for(what: str, condition: Any) -> None:
    end = time.monotonic() + WAITING
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen in {WAITING} s"
        time.sleep(0.05)


def driver(file: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "unified_extractor", "sweep", str(file), "--workers", "2", *more]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )


def test_a_cell_killed_once_goes_on_and_a_second_sweep_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    marker = tmp_path / "killed"
    file = write_grid(tmp_path, variants={"killed": callback("KillOnce", marker=str(marker))}, seeds=[0])
    assert main(["sweep", str(file), "--workers", "2"]) == 0
    text = capsys.readouterr().out
    assert marker.exists()
    assert text.count("killed by signal 9; retry 1 of 1") == 1
    assert "1 of 1 cells have their record; their table: uniex report runs/question" in text
    (cell,) = cells_of(file)
    (record,) = records(cell)
    assert (record["epochs"], record["seed"], record["variant"]) == (2, cell.point.seed, cell.point.label)
    assert record["config_hash"] == cell.name.rsplit("-", 1)[-1]
    assert (cell.run.path / "version_0" / "environment.1.json").exists(), "it resumed"

    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*") if path.is_file() and path.name != ".lock"}

    before = files()
    assert main(["sweep", str(file), "--workers", "2"]) == 0
    assert files() == before
    text = capsys.readouterr().out
    assert text.count("│ finished │") == 1
    assert "started" not in text
    more = write_grid(tmp_path, variants={"killed": callback("KillOnce", marker=str(marker))}, seeds=[0, 1])
    known = plan_cells(read_grid(more))
    assert [cell.state for cell in known] == ["finished", "new"]
    assert known[0].seconds_left == 0
    assert known[1].seconds == known[0].seconds  # measured, not estimated


@pytest.mark.thorough
def test_cells_outlive_their_driver_and_the_next_one_waits_for_them(tmp_path: Path):
    waiting = tmp_path / "waiting"
    file = write_grid(tmp_path, options=callback("Wait", folder=str(waiting)), seeds=[0, 1, 2])
    first = driver(file)
    wait_for("two cells in their second epoch", lambda: waiting.is_dir() and len(list(waiting.iterdir())) == 2)
    first.kill()
    first.wait()
    cells = cells_of(file)
    states = [cell.state() for cell in cells]
    assert sorted(states) == ["new", "running", "running"]
    assert [cell.epochs_done() for cell in cells if cell.state() == "running"] == [1, 1]
    second = driver(file)
    assert second.stdout is not None
    seen: list[str] = []
    while sum(line.startswith("waiting for plain seed=") for line in seen) < 2:
        seen.append(second.stdout.readline())
        assert seen[-1], seen
    (waiting / "go").touch()
    rest = second.communicate(timeout=WAITING)[0]
    assert second.returncode == 0, rest
    text = "".join(seen) + rest
    assert text.count("started plain") == 1
    assert text.index("finished plain") < text.index("started plain"), "two workers were busy already"
    for cell in cells:
        (record,) = records(cell)
        assert record["epochs"] == 2
        assert not (cell.run.path / "version_0" / "environment.1.json").exists()
        assert cell.log.read_text().count("$ ") == 1


@pytest.mark.thorough
def test_an_interrupted_sweep_stops_its_cells_without_a_traceback(tmp_path: Path):
    """Ctrl-C reaches every process of the terminal's foreground."""
    waiting = tmp_path / "waiting"
    file = write_grid(tmp_path, options=callback("Wait", folder=str(waiting)), seeds=[0])
    (cell,) = cells_of(file)
    sweep = driver(file)
    wait_for("a cell in its second epoch", waiting.is_dir)
    os.killpg(sweep.pid, signal.SIGINT)
    time.sleep(1)
    (waiting / "go").touch()
    text = sweep.communicate(timeout=WAITING)[0]
    assert sweep.returncode == 130
    assert text.endswith("uniex: interrupted; the same command goes on\n")
    assert "Traceback" not in text
    assert cell.state() == "unfinished"
    assert cell.epochs_done() == 1


@pytest.mark.usefixtures("cells_in_process")
def test_a_cell_that_always_fails_is_retried_and_reported_and_the_others_finish(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = write_grid(tmp_path, variants={"broken": callback("Fail"), "plain": {}}, seeds=[0])
    assert main(["sweep", str(file), "--workers", "2"]) == 1
    broken, plain = cells_of(file)
    printed = capsys.readouterr()
    assert printed.err == f"uniex: failed: broken seed=0: exit code 1: RuntimeError: broken on purpose (log: {broken.log})\n"
    assert "retry 1 of 1" in printed.out
    assert "1 of 2 cells have their record" in printed.out
    assert broken.log.read_text().count("$ ") == 2
    assert (broken.run.finished(), len(records(plain))) == (None, 1)


def test_a_cell_that_fit_refuses_is_not_retried(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The module of its callback is there for the plan and gone when it runs."""
    (tmp_path / "gone.py").write_text("from tests.support.sweep_callbacks import Fail\n")
    file = write_grid(tmp_path, seeds=[0], options={"trainer.callbacks": [{"class_path": "gone.Fail"}]})
    sys.path.insert(0, str(tmp_path))
    try:
        cells = plan_cells(read_grid(file))
    finally:
        sys.path.remove(str(tmp_path))
    (tmp_path / "gone.py").unlink()
    del sys.modules["gone"]
    progress = Progress(cells, workers=1, console=Console())
    (failure,) = Sweep(cells, InProcess(), cluster="local", workers=1, retries=3, progress=progress).run()
    assert failure.exit_code == 2
    assert "uniex: error: " in failure.last_line
    assert failure.cell.log.read_text().count("$ ") == 1


@pytest.mark.thorough
def test_a_preempted_job_stops_its_cell_and_goes_on_when_it_is_queued_again(tmp_path: Path):
    """The signal by which SLURM takes a machine back reaches the job; submitit's local cluster starts it again."""
    waiting = tmp_path / "waiting"
    file = write_grid(tmp_path, options=callback("Wait", folder=str(waiting)), seeds=[0])
    (cell,) = cells_of(file)
    executor = make_executor("local", tmp_path / "submitit", workers=1, slurm={})
    job = executor.submit(cell_job(cell, gpu=None, local=True))
    wait_for("a cell in its second epoch", waiting.is_dir)
    (child,) = [int(path.name) for path in waiting.iterdir()]
    worker = int(Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[1])
    assert "libtorch" not in Path(f"/proc/{worker}/maps").read_text(), "a worker loads what its command loads again"
    os.kill(child, signal.SIGUSR2)  # SLURM signals every process: the cell must not die of it
    time.sleep(0.5)
    assert not job.done()
    os.kill(worker, signal.SIGUSR2)
    time.sleep(1)
    (waiting / "go").touch()
    assert job.result() == 0
    (record,) = records(cell)
    assert record["epochs"] == 2
    assert (cell.run.path / "version_0" / "environment.1.json").exists()
    assert cell.log.read_text().count("$ ") == 2


def test_a_job_forwards_sigterm_and_does_not_touch_a_busy_log(tmp_path: Path):
    log = tmp_path / "logs" / "cell.log"
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print('ready', flush=True); time.sleep(60)"
    executor = make_executor("local", tmp_path / "submitit", workers=1, slurm={})

    def job() -> Any:
        return executor.submit(CellJob([sys.executable, "-c", code], log, tmp_path, {}))

    assert executor._executor.parameters["timeout_min"] > 60 * 24 * 30, "submitit ends local jobs after two minutes"
    assert not is_locked(log)
    first = job()
    wait_for("the command", lambda: log.exists() and "ready\n" in log.read_text())
    assert is_locked(log)
    assert job().result() is None
    first._process.send_signal(signal.SIGTERM)
    assert first.result() == 7
    assert not is_locked(log)
    assert log.read_text().count("ready\n") == 1


def test_debug_runs_in_this_process(tmp_path: Path):
    executor = make_executor("debug", tmp_path / "submitit", workers=1, slurm={})
    log, handler = tmp_path / "a.log", signal.getsignal(signal.SIGTERM)
    try:
        assert executor.submit(CellJob([sys.executable, "-c", "raise SystemExit(3)"], log, tmp_path, {})).result() == 3
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert log.read_text().startswith("$ ")


class FakeJob:
    def __init__(self, result: Any) -> None:
        self._result = result

    def done(self) -> bool:
        return True

    def result(self) -> Any:
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


@pytest.mark.parametrize("result", [2, None, UncompletedJobError("no result")], ids=["locked", "busy log", "lost worker"])
def test_a_job_that_ends_while_its_cell_runs_elsewhere_has_not_failed(result: Any, tmp_path: Path):
    """A person runs the very command meanwhile, or the worker was killed and its command was not."""
    (planned,) = plan_cells(read_grid(write_grid(tmp_path, seeds=[0])))
    submitted, events = [], []

    class Executor:
        def submit(self, job: CellJob) -> FakeJob:
            submitted.append(job)
            planned.cell.run.claim(go_on=True)
            return FakeJob(result)

    class Told(Progress):
        def event(self, text: str) -> None:
            events.append(text)
            if text.startswith("waiting"):
                (planned.cell.run.path / "version_0" / "record.json").touch()
                release_locks()

    progress = Told([planned], workers=1, console=Console())
    assert Sweep([planned], Executor(), cluster="local", workers=1, retries=0, progress=progress).run() == []
    assert len(submitted) == 1
    place = str(planned.cell.point)
    assert events == [f"started {place}", f"waiting for {place}: another process runs it", f"finished {place}"]


def test_jobs_of_one_gpu_get_one_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    planned = plan_cells(read_grid(write_grid(tmp_path)))
    jobs: list[str | None] = []

    class Executor:
        def submit(self, job: CellJob) -> FakeJob:
            jobs.append(job.environment["CUDA_VISIBLE_DEVICES"])
            return FakeJob(2)

    for gpus in (1, 0):
        cells = [dataclasses.replace(cell, gpus=gpus) for cell in planned]
        progress = Progress(cells, workers=2, console=Console())
        Sweep(cells, Executor(), cluster="local", workers=2, retries=0, progress=progress).run()
    assert jobs == ["4", "6", "4,6", "4,6"]


def test_the_bar_counts_the_epochs_of_running_cells(tmp_path: Path):
    file = write_grid(tmp_path, variants={"short": {}, "long": {"trainer.max_epochs": 4}}, seeds=[0])
    short, long = (dataclasses.replace(cell, seconds=10.0 * cell.epochs) for cell in plan_cells(read_grid(file)))
    screen = io.StringIO()
    cells = {cell.cell.name: cell for cell in (short, long)}
    with Progress([short, long], workers=2, console=Console(file=screen, force_terminal=True, width=120)) as progress:
        progress.show(cells, running=[], failed=0)
        checkpoints = long.cell.run.path / "version_0" / "checkpoints"
        checkpoints.mkdir(parents=True)
        (checkpoints / "epoch_0000.ckpt").touch()
        (checkpoints / "epoch_0002.ckpt").touch()
        assert progress.left(cells, [long.cell.name]) == 20 + 10
        progress.show({long.cell.name: long}, running=[long.cell.name], failed=0)
    assert "1 of 2 done, 1 running, 0 failed" in screen.getvalue()
    assert "83%" in screen.getvalue()


@pytest.mark.usefixtures("cells_in_process")
def test_what_has_a_row_is_finished_wherever_its_folder_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = tmp_path / "kept" / "rows.jsonl"
    command = ["sweep", str(write_grid(tmp_path, seeds=[0])), "--rows", str(rows)]
    assert main(command) == 0
    (kept,) = read_rows([rows])
    (cell,) = cells_of(tmp_path / "grids" / "grid.yaml")
    assert kept.run == records(cell)[0]["run"]
    shutil.rmtree("runs")
    capsys.readouterr()
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "1 cells, 1 finished" in text
    assert f"1 of 1 cells have their record; their table: uniex report {rows}" in text
    assert not Path("runs").exists()
    rows.write_text(rows.read_text().rstrip("\n"))  # as an editor may leave it
    write_grid(tmp_path, seeds=[0, 1])  # one more seed: only that is run
    assert main(command) == 0
    assert [row.seed for row in read_rows([rows])] == [0, 1]
    assert rows.read_text().splitlines()[0] == as_line(kept)


@pytest.mark.usefixtures("cells_in_process")
def test_a_run_of_another_sweep_is_not_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows, more = tmp_path / "rows.jsonl", tmp_path / "more.jsonl"
    grid = str(write_grid(tmp_path, seeds=[0]))
    assert main(["sweep", grid, "--rows", str(rows)]) == 0
    capsys.readouterr()
    write_grid(tmp_path, seeds=[0, 1], name="another", variants={"other": {}})
    assert main(["sweep", grid, "--rows", str(more), "--reuse", str(rows)]) == 0
    text = capsys.readouterr().out
    assert "2 cells, 1 finished" in text
    assert "started other seed=1" in text
    assert "seed=0" not in text.split("started", 1)[1]
    (first,), found = read_rows([rows]), {row.seed: row for row in read_rows([more])}
    assert found[0] == dataclasses.replace(first, question="another", variant="other")
    assert found[1].run != first.run
    write_rows(of_another := tmp_path / "gpu.jsonl", [dataclasses.replace(first, budget="gpu")])
    for reused, states in ((rows, ["finished", "finished"]), (of_another, ["new", "finished"])):
        assert main(["sweep", grid, "--rows", str(tmp_path / "none.jsonl"), "--reuse", str(reused), "--dry_run"]) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│ other")]
        assert [line.split("│")[3].strip() for line in lines] == states
    with pytest.raises(SystemExit):
        main(["sweep", grid, "--reuse", str(rows)])
    assert "--reuse adds rows to the file of --rows" in capsys.readouterr().err


def test_rows_that_are_none_are_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n")
    with pytest.raises(SystemExit) as stop:
        main(["sweep", str(write_grid(tmp_path)), "--rows", str(rows)])
    assert stop.value.code == 2
    assert f"uniex: error: {rows}:1: schema None" in capsys.readouterr().err
    assert not Path("runs").exists()
