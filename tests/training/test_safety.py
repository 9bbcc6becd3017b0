"""The protections of a run: the lock of its folder, undamaged checkpoints, disk space, and a stop before a bad loss changes
the weights."""

import multiprocessing
import shutil
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jsonargparse import Namespace
from torch import nn

from tests.support.tiny_runs import final, write_config
from unified_extractor.results.record import read_rows
from unified_extractor.training import ConfigurationError
from unified_extractor.training.callbacks.divergence import StopWhenDiverged, first_not_finite
from unified_extractor.training.callbacks.history import RunHistory
from unified_extractor.training.cli.planned_run import planned
from unified_extractor.training.cli.training_cli import main
from unified_extractor.training.errors import DivergedError
from unified_extractor.training.run.checkpoints import newest_checkpoint, read_checkpoint, remove_old, run_checkpoints
from unified_extractor.training.run.folder import RunFolder, release_locks
from unified_extractor.training.run.settings_hash import config_hash

pytestmark = pytest.mark.usefixtures("in_empty_folder")


@pytest.fixture(autouse=True)
def _unlocked():
    yield
    release_locks()


def checkpoint(path: Path, step: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {"w": torch.zeros(1000)}, "loops": {}, "global_step": step}, path)


def test_folders_are_numbered_and_a_new_run_never_takes_an_old_one():
    run = RunFolder("some/run", "runs")
    for number in range(3):
        claim = run.claim(go_on=False)
        assert claim.folder == Path(f"runs/some/run/version_{number}")
        assert claim.checkpoint is None
    assert run.newest() == claim.folder
    for name in ("", "/tmp/x", "../x"):
        with pytest.raises(ValueError, match="name must be"):
            RunFolder(name)


def test_going_on_takes_the_newest_unfinished_folder_with_a_checkpoint():
    run = RunFolder("run", "runs")
    assert run.claim(go_on=True).folder.name == "version_0"
    release_locks()
    assert run.claim(go_on=True).folder.name == "version_1"  # nothing to go on from
    release_locks()
    assert run.current() is None
    checkpoint(run.path / "version_0" / "checkpoints" / "epoch_0000.ckpt", 5)
    for claim in (run.claim(go_on=True), run.found(go_on=True)):
        assert (claim.folder.name, claim.checkpoint.name) == ("version_0", "epoch_0000.ckpt")
    release_locks()
    assert (run.current(), run.finished()) == (run.path / "version_0", None)
    (run.path / "version_0" / "record.json").touch()
    assert run.finished() == run.path / "version_0"
    assert run.found(go_on=True).checkpoint is None
    with pytest.raises(ConfigurationError, match="run: runs/run/version_0 is finished, there is nothing to go on with"):
        run.claim(go_on=True)
    assert run.claim(go_on=False).folder.name == "version_2"


def claim_in_another_process(queue: Any, go_on: bool) -> None:
    try:
        queue.put(str(RunFolder("run", "runs").claim(go_on=go_on).folder))
        time.sleep(600)  # until it is killed
    except ConfigurationError as error:
        queue.put(str(error))


def test_a_folder_that_another_process_writes_is_refused():
    run = RunFolder("run", "runs")
    checkpoint(run.path / "version_0" / "checkpoints" / "epoch_0000.ckpt", 5)
    assert not run.running()
    queue = multiprocessing.Queue()
    other = multiprocessing.get_context("fork").Process(target=claim_in_another_process, args=(queue, True), daemon=True)
    other.start()
    assert queue.get(timeout=30) == "runs/run/version_0"
    assert run.running()
    with pytest.raises(ConfigurationError, match="run: runs/run/version_0 is being written by another process"):
        run.claim(go_on=True)
    assert run.claim(go_on=False).folder.name == "version_1"  # a run of its own
    release_locks()
    other.kill()  # the lock ends with its process
    other.join()
    shutil.rmtree(run.path / "version_1")
    assert not run.running()
    assert run.claim(go_on=True).folder.name == "version_0"


def test_two_processes_that_start_at_once_never_share_a_folder():
    queue = multiprocessing.Queue()
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=claim_in_another_process, args=(queue, True), daemon=True) for _ in range(6)]
    for other in others:
        other.start()
    answers = [queue.get(timeout=30) for _ in others]
    for other in others:
        other.kill()
        other.join()
    folders = [answer for answer in answers if answer.startswith("runs")]
    assert folders == ["runs/run/version_0"]
    assert all("is being written by another process" in answer for answer in answers if answer not in folders)


def test_folders_that_cannot_be_made_are_named():
    Path("file").touch()
    with pytest.raises(ConfigurationError, match=r"run: cannot make file/run: Not a directory"):
        RunFolder("run", "file").claim(go_on=False)
    Path("runs/run").mkdir(parents=True)
    Path("runs/run/version_x").touch()
    assert RunFolder("run", "runs").claim(go_on=False).folder.name == "version_0"


@pytest.mark.parametrize("damage", ["truncated", "empty", "a hole"])
def test_a_damaged_checkpoint_is_skipped_for_the_last_good_one(damage: str, capsys: pytest.CaptureFixture[str]):
    folder = Path("checkpoints")
    for epoch in range(3):
        checkpoint(folder / f"epoch_000{epoch}.ckpt", 10 * epoch)
    newest = folder / "epoch_0002.ckpt"
    assert newest_checkpoint(folder) == newest
    assert capsys.readouterr().err == ""
    content = newest.read_bytes()
    middle = len(content) // 2
    newest.write_bytes(
        {"truncated": content[:middle], "empty": b"", "a hole": content[:middle] + b"\1" * 64 + content[middle + 64 :]}[damage]
    )
    assert newest_checkpoint(folder) == folder / "epoch_0001.ckpt"
    assert capsys.readouterr().err == f"uniex: {newest} is damaged, going on without it\n"
    with pytest.raises(ConfigurationError, match="not a readable checkpoint"):
        read_checkpoint(newest)


def test_among_checkpoints_of_one_step_the_one_after_the_epoch_is_taken():
    for name in ("best", "epoch_0001", "step_00000020"):
        checkpoint(Path("checkpoints") / f"{name}.ckpt", 20)
    assert newest_checkpoint(Path("checkpoints")).name == "epoch_0001.ckpt"
    assert newest_checkpoint(Path("nowhere")) is None


def test_checkpoints_of_many_resumes_do_not_pile_up():
    folder = Path("checkpoints")
    for name in ("best", *(f"epoch_{epoch:04d}" for epoch in range(5)), "step_00000004", "step_00000007", "step_00000009"):
        checkpoint(folder / f"{name}.ckpt", 1)
    remove_old(folder, folder / "epoch_0001.ckpt")
    left = sorted(path.stem for path in folder.iterdir())
    assert left == ["best", "epoch_0001", "epoch_0003", "epoch_0004", "step_00000007", "step_00000009"]


def test_a_run_goes_on_from_the_last_good_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = write_config(tmp_path, trainer__max_epochs=3)
    command = ["fit", "--config", str(file), "--ckpt_path=last"]
    assert main(command) == 0
    folder = Path("runs/tiny/version_0")
    expected = final(folder)["state_dict"]
    (folder / "record.json").unlink()
    newest = folder / "checkpoints" / "epoch_0002.ckpt"
    for path in (newest, folder / "checkpoints" / "best.ckpt"):
        path.write_bytes(path.read_bytes()[:999])
    left = [
        shutil.copy(folder / "checkpoints" / "epoch_0001.ckpt", folder / "checkpoints" / f"step_0000000{n}.ckpt")
        for n in (1, 2, 3)
    ]
    assert main(command) == 0
    assert f"{newest} is damaged" in capsys.readouterr().err
    assert [path.exists() for path in left] == [False, True, True]
    again = final(folder)["state_dict"]
    assert all(torch.equal(again[name], value) for name, value in expected.items())


def test_a_disk_without_room_is_an_error_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    assert main(["fit", "--config", str(write_config(tmp_path))]) == 2
    assert "has 10,000 bytes free, the checkpoints of this run need up to" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_disk_that_fills_up_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lightning.pytorch.trainer.trainer.Trainer.save_checkpoint", full)
    assert main(["fit", "--config", str(write_config(tmp_path))]) == 2
    assert "uniex: error: run: the disk is full" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    poison = {"class_path": "tests.support.tiny_runs.Poison", "init_args": {"layer": "stage1.1.0", "step": 12}}
    file = write_config(tmp_path, trainer__callbacks=[poison])
    assert main(["fit", "--config", str(file), "--ckpt_path=last"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("uniex: error: the loss is ")
    assert "at epoch 2, step 13 of the run" in line
    assert "the first layer whose output is not finite is stage1.1.0 (" in line
    state = final(Path("runs/tiny/version_0"))
    assert state["global_step"] == 8
    assert all(bool(torch.isfinite(value).all()) for value in state["state_dict"].values())


def test_every_batch_that_a_step_takes_must_have_a_finite_loss():
    strategy = SimpleNamespace(reduce_boolean_decision=lambda finite, all: finite)
    precision = SimpleNamespace(train_step_context=nullcontext)
    optimizers = [torch.optim.SGD([torch.zeros(1, requires_grad=True)])]  # not fused: it cannot leave out a step
    trainer: Any = SimpleNamespace(
        strategy=strategy, precision_plugin=precision, current_epoch=0, global_step=4, optimizers=optimizers, world_size=1
    )
    module: Any = SimpleNamespace(network=nn.Flatten())
    watch = StopWhenDiverged()
    bad, good = torch.full((1, 2), float("nan")), torch.ones(1, 2)

    def batch(images: torch.Tensor) -> None:
        watch.on_train_batch_start(trainer, module, (images, None), 0)
        watch.on_before_backward(trainer, module, images.sum())

    said = "the loss is nan at epoch 1, step 5 of the run; the images are not finite already"
    batch(bad)
    with pytest.raises(DivergedError, match=said):
        batch(good)  # its gradients are added to those of the one before
    batch(bad)
    with pytest.raises(DivergedError, match=said):
        watch.on_before_optimizer_step(trainer, module, None)  # type: ignore[arg-type]
    with torch.autograd.set_detect_anomaly(True), pytest.raises(DivergedError, match=said):
        batch(bad)
    batch(good)
    watch.on_before_optimizer_step(trainer, module, None)  # type: ignore[arg-type]


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    spoil = {"class_path": "tests.support.tiny_runs.SpoilWeights", "init_args": {"epoch": 1}}
    file = write_config(tmp_path, trainer__max_epochs=3, trainer__callbacks=[spoil])
    assert main(["fit", "--config", str(file)]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == "uniex: error: the validation loss is nan in epoch 2. The last checkpoint is from before"
    checkpoints = sorted(path.name for path in Path("runs/tiny/version_0/checkpoints").iterdir())
    assert checkpoints == ["best.ckpt", "epoch_0000.ckpt"]


def test_a_run_is_not_gone_on_with_by_another_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = write_config(tmp_path, trainer__max_epochs=2)
    command = ["fit", "--config", str(file), "--ckpt_path=last"]
    assert main(command) == 0
    other = [*command, "--seed_everything=7"]
    for finished in (True, False):
        if not finished:
            Path("runs/tiny/version_0/record.json").unlink()
        assert main(other) == 2
        assert (
            "ckpt_path: last: runs/tiny/version_0 has other settings: seed_everything: 0 there, 7 here" in capsys.readouterr().err
        )
    Path("runs/tiny/version_0/environment.json").write_text("")  # damaged: nothing to compare with
    assert main(command) == 0


def test_a_run_that_stopped_early_stays_stopped(tmp_path: Path):
    stop = {
        "class_path": "lightning.pytorch.callbacks.EarlyStopping",
        "init_args": {"monitor": "val/loss", "mode": "max", "patience": 1},
    }
    file = write_config(tmp_path, trainer__max_epochs=6, trainer__callbacks=[stop])
    command = ["fit", "--config", str(file), "--ckpt_path=last"]
    assert main(command) == 0
    path = Path("runs/tiny/version_0/record.json")
    (one,) = read_rows([path])
    assert one.epochs < 6
    path.unlink()
    assert main(command) == 0
    (two,) = read_rows([path])
    assert (one.epochs, one.test_loss, one.curve) == (two.epochs, two.test_loss, two.curve)


def test_the_tested_weights_are_the_averaged_ones_of_the_best_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    average = {
        "class_path": "lightning.pytorch.callbacks.EMAWeightAveraging",
        "init_args": {"decay": 0.9, "update_every_n_steps": 5},
    }
    file = write_config(tmp_path, trainer__max_epochs=3, trainer__callbacks=[average])
    assert main(["fit", "--config", str(file)]) == 0
    (record,) = read_rows([Path("runs/tiny/version_0/record.json")])
    capsys.readouterr()
    assert main(["test", "--config", str(file), "--ckpt_path=runs/tiny/version_0/checkpoints/best.ckpt"]) == 0
    assert f"{record.test_loss:.6f}"[:7] in capsys.readouterr().out


def test_a_point_of_the_curve_is_the_mean_over_the_epochs_steps(tmp_path: Path):
    losses = {"class_path": "tests.support.tiny_runs.LossFile", "init_args": {"path": "losses"}}
    file = write_config(tmp_path, trainer__max_epochs=2, trainer__callbacks=[losses])
    assert main(["fit", "--config", str(file)]) == 0
    (record,) = read_rows([Path("runs/tiny/version_0/record.json")])
    steps = torch.tensor([float(line) for line in Path("losses").read_text().split()])
    assert [point.train_loss for point in record.curve] == pytest.approx(steps.reshape(2, -1).mean(1).tolist())


def test_no_checkpoint_within_an_epoch_is_of_its_end(tmp_path: Path):
    assert main(["fit", "--config", str(write_config(tmp_path, trainer__max_epochs=2)), "--checkpoint_every_n_steps=4"]) == 0
    names = sorted(path.name for path in Path("runs/tiny/version_0/checkpoints").glob("step_*"))
    assert names == ["step_00000004.ckpt", "step_00000012.ckpt"]


def test_steps_whose_gradients_overflow_are_not_in_their_mean_norm():
    module: Any = SimpleNamespace(network=SimpleNamespace(stages=[nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)]))
    history, trainer = RunHistory(), SimpleNamespace(strategy=None)
    for one, other in ((3.0, 1.0), (float("inf"), 2.0)):
        for stage, value in zip(module.network.stages, (one, other), strict=True):
            stage.weight.grad = torch.full((1, 1), value)
        history.on_before_optimizer_step(trainer, module, None)  # type: ignore[arg-type]
    assert history.state_dict()["norms"].tolist() == [3.0, 3.0]
    assert history.state_dict()["normed_steps"].tolist() == [1, 2]


def test_an_epoch_that_is_cut_short_has_its_own_training_loss(tmp_path: Path):
    stop = {"class_path": "tests.support.tiny_runs.StopAt", "init_args": {"step": 12}}
    losses = {"class_path": "tests.support.tiny_runs.LossFile", "init_args": {"path": "losses"}}
    file = write_config(tmp_path, trainer__max_epochs=4, trainer__callbacks=[losses, stop])
    assert main(["fit", "--config", str(file)]) == 0
    (record,) = read_rows([Path("runs/tiny/version_0/record.json")])
    steps = [float(line) for line in Path("losses").read_text().split()]
    assert len(steps) == 12
    assert record.curve[1].train_loss == pytest.approx(sum(steps[8:]) / 4)


def test_only_validated_epochs_are_points_of_the_curve(tmp_path: Path):
    file = write_config(tmp_path, trainer__max_epochs=4, trainer__check_val_every_n_epoch=2, trainer__limit_train_batches=3)
    assert main(["fit", "--config", str(file)]) == 0
    (record,) = read_rows([Path("runs/tiny/version_0/record.json")])
    assert [point.epoch for point in record.curve] == [2, 4]
    assert record.best_epoch in (2, 4)
    assert (record.train_images, record.epoch_images, record.test_images) == (1151, 3 * 128, 359)


def test_a_renamed_run_keeps_its_best(tmp_path: Path):
    file = write_config(tmp_path, trainer__max_epochs=2)
    assert main(["fit", "--config", str(file), "--run.name=first"]) == 0
    shutil.move("runs/first", "runs/moved")
    path = Path("runs/moved/version_0/record.json")
    (one,) = read_rows([path])
    path.unlink()
    assert main(["fit", "--config", str(file), "--run.name=moved", "--ckpt_path=last"]) == 0
    (two,) = read_rows([path])
    assert (one.best_epoch, one.test_loss) == (two.best_epoch, two.test_loss)


def test_the_place_of_the_first_bad_value_is_named():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sequential(nn.ReLU(), nn.Conv2d(2, 2, 1)), nn.Flatten())
    images = torch.randn(2, 1, 3, 3)
    assert first_not_finite(network, images) == "all of the network's outputs are finite"
    assert first_not_finite(network, images * float("nan")) == "the images are not finite already"
    network[1][0].register_forward_hook(lambda module, inputs, output: output + float("nan"))
    assert first_not_finite(network, images).endswith("is 1.0 (ReLU)")
    network.compile(backend="eager")
    assert first_not_finite(network, images).endswith("is 1.0 (ReLU)")
    nn.init.constant_(network[0].weight, float("inf"))
    assert first_not_finite(network, images).startswith("the weights 0.weight are not finite already")


def test_the_hash_is_of_what_decides_the_numbers(tmp_path: Path):
    file = str(write_config(tmp_path))
    plain = planned(["--config", file]).config_hash
    assert len(plain) == 12
    for same in (["--run.name=other"], ["--ckpt_path=last"], ["--model.optimization.learning_rate=1e-2"], ["--run.budget=x"]):
        assert planned(["--config", file, *same]).config_hash == plain, same
    for other in (["--seed_everything=1"], ["--model.optimization.learning_rate=0.02"], ["--data.batch_size=64"]):
        assert planned(["--config", file, *other]).config_hash != plain, other
    assert not Path("runs").exists()


def test_images_of_another_folder_are_other_data_unless_they_are_called_the_same():
    def hash_of(**data: Any) -> str:
        return config_hash(Namespace(data=Namespace(init_args=Namespace(**data))))

    assert (
        hash_of(root="a/birds", name=None) == hash_of(root="elsewhere/birds", name=None) == hash_of(root="a/birds", name="birds")
    )
    assert hash_of(root="a/birds", name=None) != hash_of(root="a/cats", name=None)
    assert hash_of(root="a", name="birds") == hash_of(root="b", name="birds")
    assert hash_of(root="a") == hash_of(root="b")  # the data set's class says which it is


def test_a_checkpoint_within_an_epoch_is_not_written_again_where_a_run_goes_on(tmp_path: Path):
    *_, within = run_checkpoints(tmp_path, "accuracy", 2)
    within.on_train_start(SimpleNamespace(global_step=4), None)  # type: ignore[arg-type]
    assert within._last_global_step_saved == 4


def test_a_torn_row_of_the_metrics_is_left_out_when_a_run_goes_on(tmp_path: Path):
    command = ["fit", "--config", str(write_config(tmp_path, trainer__max_epochs=2)), "--ckpt_path=last"]
    assert main(command) == 0
    folder = Path("runs/tiny/version_0")
    for name in ("record.json", "checkpoints/epoch_0001.ckpt"):
        (folder / name).unlink()
    metrics = folder / "metrics.csv"
    whole = metrics.read_text()
    metrics.write_text(whole + "1,")
    assert main(command) == 0
    assert len(metrics.read_text().splitlines()) == len(whole.splitlines())


def test_a_plan_refuses_what_fit_would_refuse(tmp_path: Path):
    file = str(write_config(tmp_path))
    for wrong, reason in (
        ("--data.batch_size=2000", "data.init_args.batch_size: must not exceed"),
        ("--model.network.init_args.num_classes=7", "model.network.init_args.num_classes: must be 10"),
        ("--trainer.max_epochs=0", "trainer.max_epochs: must not be 0"),
        ("--trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches: must be at least 1, got 0"),
        (
            '--trainer.callbacks=[{"class_path": "lightning.pytorch.callbacks.GradientAccumulationScheduler", '
            '"init_args": {"scheduling": {"1": 2}}}]',
            r"trainer.callbacks\[0\]: GradientAccumulationScheduler changes the steps of an epoch",
        ),
        ("--trainer.check_val_every_n_epoch=99", "trainer.check_val_every_n_epoch: must not exceed max_epochs"),
        ("--trainer.limit_test_batches=0.01", "trainer.limit_test_batches: leaves no batch to test, got 0.01"),
        ("--trainer.max_epoch=1", "trainer.max_epoch: unknown key"),
    ):
        with pytest.raises(ConfigurationError, match=reason):
            planned(["--config", file, wrong])
