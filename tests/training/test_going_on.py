"""Two acts with two names: a run is resumed with its own settings alone, and a new run starts from the weights of another."""

import json
import shutil
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

import unified_extractor as ux
from tests.support.tiny_runs import in_this_process, weights, write_config
from unified_extractor.__main__ import main
from unified_extractor.data import Digits
from unified_extractor.results.record import read_rows
from unified_extractor.training import ConfigurationError, ImageClassifier
from unified_extractor.training.optimization import Optimization
from unified_extractor.training.run.folder import release_locks

pytestmark = pytest.mark.usefixtures("in_empty_folder")
RATES = {"class_path": f"{__name__}.Rates"}


class Rates(L.Callback):
    """Writes the learning rate and the weight decay of every step into a file."""

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        (group, *_others) = trainer.optimizers[0].param_groups
        with Path("rates").open("a") as file:
            file.write(f"{group['lr']} {group['weight_decay']}\n")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run of three epochs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder := tmp_path_factory.mktemp("trained"))
        file = write_config(folder, trainer__max_epochs=3)
        in_this_process("fit", "--config", file)
    return folder / "runs" / "tiny" / "version_0"


def command(tmp_path: Path, *options: str, **changes: Any) -> list[str]:
    file = write_config(tmp_path, **{"trainer__max_epochs": 3, "run__name": "next", **changes})
    return ["fit", "--config", str(file), *options]


def refusal(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """Return the line with which the command is refused; nothing may be left behind."""
    capsys.readouterr()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("uniex: error: ")
    assert error.count("\n") == 1
    assert not Path("runs").exists()
    return error.removeprefix("uniex: error: ").strip()


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (["--model.optimization.learning_rate=1e-5"], "model.optimization.learning_rate: 0.01 there, 1e-05 here"),
        (["--model.optimization.optimizer=sgd"], "model.optimization.optimizer: adamw there, sgd here"),
        (["--data.batch_size=64"], "data.init_args.batch_size: 128 there, 64 here"),
        (["--model.network.init_args.widths=[16]"], "model.network.init_args.widths: [8] there, [16] here"),
        (["--trainer.callbacks+=Timer"], "trainer.callbacks: null there, [Timer] here"),
        (["--trainer.max_epochs=6"], "is a run of 3 epochs, not of 6"),
    ],
)
def test_a_run_is_not_resumed_with_other_settings(
    tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str], options: list[str], difference: str
):
    file = trained / "checkpoints" / "epoch_0001.ckpt"
    line = refusal(capsys, command(tmp_path, f"--ckpt_path={file}", *options))
    assert line.startswith(f"ckpt_path: {file} ")
    assert difference in line
    assert f"--model.initial_weights {file} starts a new run from its weights" in line


def test_a_run_is_resumed_from_a_file_with_its_own_settings(tmp_path: Path, trained: Path):
    file = shutil.copy(trained / "checkpoints" / "epoch_0001.ckpt", tmp_path)
    shutil.copy(trained / "checkpoints" / "best.ckpt", tmp_path)
    in_this_process(*command(tmp_path, f"--ckpt_path={file}"))
    new = Path("runs/next/version_0")
    (one,), (two,) = (read_rows([folder / "record.json"]) for folder in (trained, new))
    assert (one.test_accuracy, one.curve, one.best_epoch) == (two.test_accuracy, two.curve, two.best_epoch)
    there, here = weights(trained / "checkpoints" / "epoch_0002.ckpt"), weights(new / "checkpoints" / "epoch_0002.ckpt")
    assert all(torch.equal(value, here[name]) for name, value in there.items())


def test_the_best_epoch_before_a_resume_stays_the_best(tmp_path: Path, trained: Path):
    for name in ("epoch_0001", "best"):
        content = torch.load(trained / "checkpoints" / f"{name}.ckpt", weights_only=True)
        for state in content["callbacks"].values():
            if "best_model_score" in state and state["monitor"] == "val/accuracy":
                state["best_model_score"] = torch.tensor(2.0)
                state["best_k_models"] = dict.fromkeys(state["best_k_models"], torch.tensor(2.0))
                state["kth_value"] = torch.tensor(2.0)
        content["epoch"] = min(content["epoch"], 1)
        torch.save(content, tmp_path / f"{name}.ckpt")
    in_this_process(*command(tmp_path, f"--ckpt_path={tmp_path / 'epoch_0001.ckpt'}"))
    assert read_rows([Path("runs/next/version_0/record.json")])[0].best_epoch == 2


def test_checkpoints_from_which_no_run_goes_on_are_named(tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str]):
    end = trained / "checkpoints" / "epoch_0002.ckpt"
    assert "is the end of its run, after epoch 3 of 3" in refusal(capsys, command(tmp_path, f"--ckpt_path={end}"))
    lonely = shutil.copy(trained / "checkpoints" / "epoch_0001.ckpt", tmp_path)
    assert "best.ckpt is not there" in refusal(capsys, command(tmp_path, f"--ckpt_path={lonely}"))
    content = torch.load(lonely, weights_only=True)
    del content["settings"]
    torch.save(content, lonely)
    assert "does not say with which settings it was trained" in refusal(capsys, command(tmp_path, f"--ckpt_path={lonely}"))


def test_a_run_is_not_made_longer(tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str]):
    for finished in (True, False):
        shutil.copytree(trained, folder := Path("elsewhere/tiny/version_0"), dirs_exist_ok=True)
        if not finished:
            (folder / "record.json").unlink()
        longer = command(tmp_path, "--ckpt_path=last", "--run.root=elsewhere", run__name="tiny", trainer__max_epochs=6)
        line = refusal(capsys, longer)
        release_locks()
        assert line.startswith(f"ckpt_path: last: {folder} is a run of 3 epochs, not of 6: its learning rate follows 3 epochs")
        assert f"--model.initial_weights {folder}/checkpoints/epoch_0002.ckpt starts a new run" in line


def test_a_run_from_weights_has_its_own_schedule_and_says_so(tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str]):
    best = trained / "checkpoints" / "best.ckpt"
    options = [
        f"--model.initial_weights={best}",
        "--model.optimization.learning_rate=1e-5",
        "--model.optimization.weight_decay=0.3",
    ]
    in_this_process(*command(tmp_path, *options, trainer__callbacks=[RATES], trainer__max_epochs=2))
    printed = capsys.readouterr().out
    rates, decays = zip(*(map(float, line.split()) for line in Path("rates").read_text().splitlines()), strict=True)
    assert max(rates) == pytest.approx(1e-5)
    assert len(rates) == 16
    assert set(decays) == {0.3}
    (record,) = read_rows([Path("runs/next/version_0/record.json")])
    assert record.initial_weights is not None
    assert record.initial_weights.startswith(f"{best} sha256:")
    assert f"initial weights: {record.initial_weights}\n" in printed
    assert record.curve[0].val_accuracy > 0.9 * read_rows([trained / "record.json"])[0].val_accuracy, (
        "it starts where the other ended"
    )
    assert len(record.curve) == 2
    (record_file,) = Path("runs").rglob("record.json")
    record_file.unlink()
    best_elsewhere = json.loads(Path("runs/next/version_0/environment.json").read_text())["config_hash"]
    in_this_process(*command(tmp_path, *options, "--ckpt_path=last", trainer__callbacks=[RATES], trainer__max_epochs=2))
    assert read_rows([record_file])[0].initial_weights == record.initial_weights, "a resumed run still knows"
    assert read_rows([record_file])[0].config_hash == best_elsewhere


def network(**changes: Any) -> ux.models.ExtractorNet:
    return ux.models.ExtractorNet(
        **{"num_classes": 10, "spec": ux.presets.convolution(), "in_chans": 1, "widths": [8], "depths": [1], **changes}
    )


@pytest.mark.parametrize("kind", ["run", "run folder", "folder", "safetensors", "state dict", "prefixed", "entry"])
def test_weights_of_every_kind_start_a_network(trained: Path, kind: str):
    source = network(num_classes=5, in_chans=3)
    own = kind.startswith("run")
    if own:
        file = str(trained / "checkpoints" / "best.ckpt")
        expected = {n.removeprefix("network."): v for n, v in weights(Path(file)).items() if n.startswith("network.")}
        file = str(trained) if kind == "run folder" else file
    else:
        expected = source.state_dict()
        file = "weights.pth"
        if kind in ("folder", "safetensors"):
            ux.interop.save(source, "saved")
            file = "saved" if kind == "folder" else "saved/model.safetensors"
        elif kind == "entry":
            torch.save({"state_dict": network().state_dict(), "state_dict_ema": expected}, file)
            file += "#state_dict_ema"
        else:
            torch.save({("module." if kind == "prefixed" else "") + name: value for name, value in expected.items()}, file)
    model = ImageClassifier(network(), initial_weights=file)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    notes = model.start()
    after = model.network.state_dict()
    left = set() if own else {"stage1.0.0.weight", "head.fc.weight", "head.fc.bias"}
    assert {
        name for name, value in after.items() if not torch.equal(value, (before if name in left else expected)[name])
    } == set()
    assert any("left out, it is for 5 classes, the module for 10" in note for note in notes) == (not own)
    assert any("left out, it is for 3-channel images, the module for 1-channel ones" in note for note in notes) == (not own)
    assert model.start() == [], "once"


def test_what_differs_of_the_extractor_is_said_and_another_network_is_refused(trained: Path):
    file = str(trained / "checkpoints" / "best.ckpt")
    wider = network(spec=ux.presets.convolution(dilation=2))
    assert ImageClassifier(wider, initial_weights=file).start() == ["dilation of stage1.1.0.extractor is 1 there and 2 here"]
    for changes, reason in (
        ({"widths": [16]}, "must have shape"),
        ({"depths": [2]}, "has no 'stage1.2.0.extractor"),
        ({"spec": ux.presets.involution(channels_per_group=4)}, "needs"),
    ):
        with pytest.raises(ConfigurationError, match=f"model.initial_weights: .*{reason}"):
            ImageClassifier(network(**changes), initial_weights=file).start()
    with pytest.raises(ConfigurationError, match=rf"one of \['state_dict'\] of {file}, got 'state_dict_ema'"):
        ImageClassifier(network(), initial_weights=f"{file}#state_dict_ema").start()
    with pytest.raises(ConfigurationError, match=r"model.initial_weights: there is no file no\.ckpt"):
        ImageClassifier(network(), initial_weights="no.ckpt").start()
    with pytest.raises(ConfigurationError, match=r"model.initial_weights: must name a file or folder, got ''"):
        ImageClassifier(network(), initial_weights="").start()


def test_in_python_training_starts_from_the_weights_once(trained: Path):
    file = str(trained / "checkpoints" / "best.ckpt")
    model = ImageClassifier(network(), Optimization(learning_rate=1e-4), initial_weights=file)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False, "logger": False}
    for _ in range(2):
        L.Trainer(max_epochs=1, limit_train_batches=1, accelerator="cpu", **quiet).fit(model, Digits(batch_size=128))  # type: ignore[arg-type]
    trained_on = model.network.state_dict()["stage1.0.0.weight"]
    expected = weights(Path(file))["network.stage1.0.0.weight"]
    distance = float((trained_on - expected).abs().max())
    assert 1.5e-4 < distance < 4e-4, "two steps of about the learning rate away from them"
