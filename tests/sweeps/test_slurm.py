"""Sweeps and runs on a SLURM cluster of one node, which these tests start. Debian: apt-get install slurm-wlm munge."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.grids import REPOSITORY, callback, heed_interrupts, write_grid
from tests.support.tiny_runs import write_config
from unified_extractor.sweeps.cell import Cell
from unified_extractor.sweeps.grid import read_grid
from unified_extractor.sweeps.plan import plan_cells

SCRIPT = Path(__file__).with_name("slurm.sh")
MISSING = [program for program in ("slurmctld", "slurmd", "munged") if shutil.which(program) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"SLURM is not installed: {', '.join(MISSING)}"),
    pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="a SLURM cluster is started as root"),
]
WAITING = 120.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the folder of a running cluster."""
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run(["bash", str(SCRIPT), "start", str(folder)], check=True, timeout=60)
    yield folder
    subprocess.run(["bash", str(SCRIPT), "stop", str(folder)], check=True, timeout=60)


@pytest.fixture(autouse=True)
def here(cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("SLURM_CONF", str(cluster / "slurm.conf"))


def wait_for(what: str, condition: Any) -> None:
    end = time.monotonic() + WAITING
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen in {WAITING} s; the queue: {queue()}"
        time.sleep(0.2)


def queue(form: str = "%i %P %T") -> list[str]:
    command = ["squeue", "--noheader", "--array", f"--format={form}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def start_now() -> None:
    """Start the waiting job: SLURM lets one that it queued again wait for two minutes."""
    subprocess.run(["scontrol", "update", f"JobId={queue('%i')[0]}", "StartTime=now"], check=True)


def sweep(file: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "unified_extractor", "sweep", str(file), "--cluster", "slurm"]
    command += ["--slurm", "partition=low", "--slurm", "time=60", "--retries", "0", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=heed_interrupts)


def waiting_sweep(folder: Path) -> tuple[subprocess.Popen[str], Cell, Path]:
    """Return a sweep whose only cell waits in its second epoch, the cell, and the file that lets it go on."""
    waiting = folder / "waiting"
    file = write_grid(folder, options=callback("Wait", folder=str(waiting)), seeds=[0])
    (planned,) = plan_cells(read_grid(file))
    driver = sweep(file)
    wait_for("a cell in its second epoch", waiting.is_dir)
    return driver, planned.cell, waiting / "go"


def ended(driver: subprocess.Popen[str], code: int = 0) -> str:
    printed = driver.communicate(timeout=WAITING)[0]
    assert driver.returncode == code, printed
    assert "sacct" not in printed, "there are no accounts, and the user is told nothing of it"
    return printed


def records(cell: Cell) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in cell.run.path.glob("version_*/record.json")]


def test_an_array_trains_every_cell_and_lightning_starts_the_processes_of_one(tmp_path: Path):
    two = {"trainer.devices": 2, "trainer.strategy": "ddp"}
    file = write_grid(tmp_path, variants={"plain": {}, "two": two}, seeds=[0])
    assert "2 of 2 cells have their record" in ended(sweep(file, "--workers", "2"))
    assert [[record["devices"] for record in records(planned.cell)] for planned in plan_cells(read_grid(file))] == [[1], [2]]


def test_a_preempted_cell_stops_and_goes_on_without_counting_as_failed(tmp_path: Path):
    driver, cell, go = waiting_sweep(tmp_path)
    subprocess.run(["srun", "--partition=high", "--exclusive", "true"], check=True, capture_output=True, timeout=WAITING)
    go.touch()
    printed = ended(driver)
    assert f"stopped {cell.point}: the cluster took its machine back; goes on" in printed
    assert "failed" not in printed
    (record,) = records(cell)
    assert record["epochs"] == 2
    assert (cell.run.path / "version_0" / "environment.1.json").exists()


def test_a_cell_outlives_the_daemon_of_its_node(tmp_path: Path, cluster: Path):
    """SLURM gives the node up and queues the job again; the command that still runs is waited for, or gone on with."""
    driver, cell, go = waiting_sweep(tmp_path)
    os.kill(int((cluster / "slurmd.pid").read_text()), signal.SIGKILL)
    wait_for("the job queued again", lambda: queue("%T") == ["PENDING"])
    subprocess.run(["slurmd"], check=True)
    go.touch()
    wait_for("the end of the command that was left", lambda: cell.state() != "running")
    time.sleep(10)  # its node ends what is left of the job: it would end a new start of it, too
    start_now()
    assert "1 of 1 cells have their record" in ended(driver)
    (record,) = records(cell)
    assert record["epochs"] == 2


def test_a_cancelled_cell_is_not_started_again(tmp_path: Path):
    driver, cell, _ = waiting_sweep(tmp_path)
    subprocess.run(["scancel", *queue("%i")], check=True)
    printed = ended(driver, code=1)
    assert f"failed {cell.point}: its job was cancelled" in printed
    assert (records(cell), queue()) == ([], [])


def test_an_interrupted_sweep_says_how_to_end_its_jobs(tmp_path: Path):
    driver, cell, go = waiting_sweep(tmp_path)
    driver.send_signal(signal.SIGINT)
    printed = ended(driver, code=130)
    (job,) = queue("%i")
    assert f"its jobs stay queued; scancel {job} ends them" in printed
    go.touch()
    wait_for("the end of the cell", lambda: cell.state() == "finished")


def test_a_run_requeued_by_lightning_resumes(tmp_path: Path):
    waiting = tmp_path / "waiting"
    changes = {"trainer__max_epochs": 2, "trainer__callbacks": callback("Wait", folder=str(waiting))["trainer.callbacks"]}
    file = write_config(tmp_path, **changes)
    command = f"{sys.executable} -m unified_extractor fit --config {file} --ckpt_path last"
    subprocess.run(
        ["sbatch", "--partition=low", "--open-mode=append", "--output=job.log", "--wrap", f"srun {command}"], check=True
    )
    wait_for("the second epoch", waiting.is_dir)
    subprocess.run(["scancel", "--signal=USR1", *queue("%i")], check=True)
    (waiting / "go").touch()
    wait_for("the job queued again", lambda: queue("%T") == ["PENDING"])
    start_now()
    record = Path("runs/tiny/version_0/record.json")
    wait_for("the record", record.exists)
    assert "Restored all states" in Path("job.log").read_text()
    assert json.loads(record.read_text())["epochs"] == 2
