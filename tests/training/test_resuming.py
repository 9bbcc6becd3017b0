"""Nothing is lost: a run that is killed and started again by the same command ends at the weights of an unbroken one."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.tiny_runs import final, in_its_own_process, in_this_process, write_config

EVERYTHING: dict[str, Any] = {
    "model__label_smoothing": 0.1,
    "model__mixup": {"alpha": 0.2, "cutmix_alpha": 1.0, "probability": 0.8},
    "model__optimization__generator_learning_rate_scale": 0.5,
    "model__network__init_args__drop_rate": 0.2,
    "model__network__init_args__depths": [2],
    "model__network__init_args__drop_path_rate": 0.2,
    "model__network__init_args__spec": {
        "kernel_size": 3,
        "offsets": {"kind": "learned"},
        "static_kernel": {"channels": "depthwise"},
        "dynamic_kernel": {"source": "generated", "channels_per_group": 4},
        "generator": {"reduction": 2, "norm": "batch", "activation": "relu"},
    },
    "data__init_args__augmentation": {"crop_padding": 1, "erasing": 0.3},
    "trainer__max_epochs": 3,
    "trainer__gradient_clip_val": 1.0,
}
AVERAGE = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.9}}


pytestmark = pytest.mark.usefixtures("in_empty_folder")


def killed(step: int, number: int = signal.SIGKILL) -> dict[str, Any]:
    return {
        "class_path": "tests.support.tiny_runs.KillOnce",
        "init_args": {"step": step, "marker": "killed", "number": int(number)},
    }


def same(one: Any, two: Any, path: str = "") -> None:
    """Assert that two checkpoints hold the same values, bit by bit, apart from times, paths and the runs' settings, which name them."""
    if isinstance(one, dict):
        assert one.keys() == two.keys(), path
        for key in one:
            if key not in ("epoch_seconds", "step_seconds", "pytorch-lightning_version", "settings") and "Checkpoint{" not in str(
                key
            ):
                same(one[key], two[key], f"{path}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), path
        for index, (a, b) in enumerate(zip(one, two, strict=True)):
            same(a, b, f"{path}[{index}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, two), path
    else:
        assert one == two, path


def ends_well(*command: str) -> None:
    """Run the command to its end: here, unless it starts processes of its own."""
    if "--trainer.strategy=ddp" not in command:
        return in_this_process(*command)
    done = in_its_own_process(*command)
    assert done.returncode == 0, done.stderr
    return None


def unbroken(tmp_path: Path, *options: str, **changes: Any) -> Path:
    """Return the folder of a run that nothing stops."""
    file = write_config(tmp_path, run__name="unbroken", trainer__callbacks=[AVERAGE], **{**EVERYTHING, **changes})
    ends_well("fit", "--config", str(file), "--ckpt_path", "last", *options)
    return Path("runs/unbroken/version_0")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of one unbroken run for all tests that change nothing else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("whole"))
        return unbroken(Path.cwd()).absolute()


def broken(tmp_path: Path, step: int, *options: str, number: int = signal.SIGKILL, **changes: Any) -> Path:
    callbacks = [AVERAGE, killed(step, number)]
    file = write_config(tmp_path, run__name="broken", trainer__callbacks=callbacks, **{**EVERYTHING, **changes})
    command = ("fit", "--config", str(file), "--ckpt_path", "last", *options)
    first = in_its_own_process(*command)
    assert first.returncode != 0
    folder = Path("runs/broken/version_0")
    assert not (folder / "record.json").exists()
    ends_well(*command)
    assert [path.name for path in Path("runs/broken").glob("version_*")] == ["version_0"]
    return folder


def assert_equal_ends(one: Path, two: Path) -> None:
    same(final(one), final(two))
    records = [json.loads((folder / "record.json").read_text()) for folder in (one, two)]
    for field in ("test_accuracy", "test_loss", "test_calibration_error", "val_accuracy", "curve", "best_epoch", "epochs"):
        assert records[0][field] == records[1][field], field
    rows = [(folder / "metrics.csv").read_text().splitlines() for folder in (one, two)]
    assert rows[0] == rows[1]


@pytest.mark.thorough
def test_killed_in_the_middle_of_an_epoch(tmp_path: Path, whole: Path):
    assert_equal_ends(whole, broken(tmp_path, step=20))  # 8 steps an epoch


@pytest.mark.thorough
def test_killed_in_the_first_epoch_starts_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = write_config(tmp_path, trainer__callbacks=[killed(3)])
    command = ("fit", "--config", str(file), "--ckpt_path", "last")
    assert in_its_own_process(*command).returncode == -signal.SIGKILL
    in_this_process(*command)
    assert "no unfinished run to go on with, starting anew" in capsys.readouterr().out
    assert (tmp_path / "runs" / "tiny" / "version_1" / "record.json").exists()


@pytest.mark.parametrize(
    ("loading", "number"),
    [
        ({"on_device": False, "stateful": True, "num_workers": 2}, signal.SIGKILL),
        pytest.param({"on_device": False, "stateful": True}, signal.SIGTERM, marks=pytest.mark.thorough),
        pytest.param({}, signal.SIGTERM, marks=pytest.mark.thorough),
    ],
    ids=["killed, two processes load", "stopped, none does", "stopped, on the device"],
)
def test_ended_between_checkpoints_within_an_epoch(tmp_path: Path, loading: dict[str, Any], number: int):
    within = ("--checkpoint_every_n_steps", "3")
    changes = {"data__init_args__loading": loading, "trainer__max_epochs": 2}
    one = unbroken(tmp_path, *within, **changes)
    two = broken(tmp_path, 11, *within, number=number, **changes)
    assert (two / "checkpoints" / "step_00000015.ckpt").exists()  # 16 ends an epoch
    assert_equal_ends(one, two)


@pytest.mark.thorough
def test_killed_with_two_processes(tmp_path: Path):
    devices = ("--trainer.devices=2", "--trainer.strategy=ddp")
    changes = {"data__init_args__batch_size": 64}
    assert_equal_ends(unbroken(tmp_path, *devices, **changes), broken(tmp_path, 20, *devices, **changes))


@pytest.mark.thorough
def test_sigterm_stops_the_run_and_the_same_command_goes_on(tmp_path: Path, whole: Path):
    assert_equal_ends(whole, broken(tmp_path, step=20, number=signal.SIGTERM))
