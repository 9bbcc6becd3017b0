"""Training: it learns, it repeats itself, it resumes where it stopped, it keeps what it wrote."""

import csv
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from torch import nn
from unified_extractor.training.schedule import parameter_groups, warmup_cosine

from tests.image_folders import write_images
from unified_extractor import presets
from unified_extractor.data import Digits
from unified_extractor.models import VOLO, ExtractorNet
from unified_extractor.training import ConfigurationError, ImageClassifier
from unified_extractor.training.architecture import check_checkpoint, check_network, layer_specs, network_specs
from unified_extractor.training.cli import main
from unified_extractor.training.record import write_record
from unified_extractor.training.run_folder import RunFolder


@pytest.fixture(autouse=True)
def one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    yield
    torch.set_num_threads(threads)


def network(**changes: Any) -> ExtractorNet:
    return ExtractorNet(
        **{"num_classes": 10, "in_chans": 1, "widths": [8], "depths": [1], "spec": presets.convolution(), **changes}
    )


def write_config(folder: Path, **changes: Any) -> Path:
    """A run of a tiny network on digits; ``changes`` are dotted keys with ``__`` for the dot."""
    config: dict[str, Any] = {
        "run": {"name": "tiny"},
        "model": {
            "learning_rate": 0.01,
            "network": {
                "class_path": "unified_extractor.models.ExtractorNet",
                "init_args": {
                    "num_classes": 10,
                    "in_chans": 1,
                    "widths": [8],
                    "depths": [1],
                    "spec": {"kernel_size": 3, "static_kernel": {"channels": "dense"}},
                },
            },
        },
        "data": {"class_path": "unified_extractor.data.Digits", "init_args": {"batch_size": 128, "crop_padding": 1}},
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False},
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        target = config
        for key in parents:
            target = target[key]
        target[last] = value
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def test_one_epoch_improves_the_loss():
    L.seed_everything(0)
    net = network(widths=[16, 32], depths=[1, 1])
    model, data = ImageClassifier(net, learning_rate=0.01, warmup_epochs=0), Digits(batch_size=32)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False, "logger": False}
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", **quiet)  # type: ignore[arg-type]
    before = trainer.validate(model, data, verbose=False)[0]
    trainer.fit(model, data)
    after = trainer.validate(model, data, verbose=False)[0]
    assert after["val/loss"] < 0.8 * before["val/loss"]
    assert after["val/accuracy"] > 2 * before["val/accuracy"]


def test_a_seed_decides_the_run(tmp_path: Path):
    def final(seed: int) -> torch.Tensor:
        file = write_config(tmp_path, seed_everything=seed)
        assert main(["fit", "--config", str(file), f"--run.name=seed{seed}", "--trainer.max_epochs=1"]) == 0
        newest = sorted((tmp_path / "runs" / f"seed{seed}").iterdir())[-1]
        return torch.cat(
            [value.flatten() for value in weights(newest / "checkpoints" / "last.ckpt").values() if value.is_floating_point()]
        )

    assert torch.equal(final(1), final(1))
    assert not torch.equal(final(1), final(2))


def test_a_run_leaves_config_curves_checkpoints_and_a_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = write_config(tmp_path, seed_everything=3)
    assert main(["fit", "--config", str(file)]) == 0
    folder = tmp_path / "runs" / "tiny" / "version_0"
    assert {"config.yaml", "metrics.csv", "record.json", "checkpoints"} <= {path.name for path in folder.iterdir()}
    assert list(folder.glob("events.out.tfevents.*"))
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}

    record = json.loads((folder / "record.json").read_text())
    curve = [float(row["val/accuracy"]) for row in csv.DictReader((folder / "metrics.csv").open()) if row["val/accuracy"]]
    assert len(curve) == record["epochs"] == 2
    assert record["val_accuracy"] == pytest.approx(max(curve))
    assert record["seed"] == 3
    assert record["specs"] == network_specs(network())
    assert record["specs"][0]["static_kernel"] == {"channels": "dense", "groups": 1}
    assert record["parameters"] == sum(p.numel() for p in network().parameters())
    assert (record["data"], record["name"], record["train_images"]) == ("Digits", "tiny", 1151)
    assert 0 < record["seconds_per_epoch"] < 60
    assert set(record["versions"]) == {"python", "torch", "lightning"}
    assert f"test accuracy {record['test_accuracy']:.4f}" in capsys.readouterr().out

    assert main(["test", "--config", str(folder / "config.yaml"), "--ckpt_path", str(folder / "checkpoints" / "best.ckpt")]) == 0
    assert f"{record['test_accuracy']:.6f}"[:6] in capsys.readouterr().out


def test_no_run_touches_another(tmp_path: Path):
    file = write_config(tmp_path, trainer__max_epochs=1)
    assert main(["fit", "--config", str(file)]) == 0
    first = tmp_path / "runs" / "tiny" / "version_0"
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    assert main(["fit", "--config", str(file)]) == 0
    assert main(["fit", "--config", str(file), "--ckpt_path=last"]) == 0  # both are finished: a third run
    assert before == {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    assert [path.name for path in sorted((tmp_path / "runs" / "tiny").iterdir())] == ["version_0", "version_1", "version_2"]


def test_resumed_run_ends_at_the_weights_of_an_unbroken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Killed(BaseException):
        pass

    def die(self: ImageClassifier, batch: Any, batch_idx: int) -> None:
        if self.current_epoch == 2 and batch_idx == 1:
            raise Killed
        original(self, batch, batch_idx)

    file = write_config(tmp_path, trainer__max_epochs=4)
    assert main(["fit", "--config", str(file), "--run.name=unbroken", "--ckpt_path=last"]) == 0

    original = ImageClassifier.on_train_batch_start
    command = ["fit", "--config", str(file), "--run.name=broken", "--ckpt_path=last"]
    monkeypatch.setattr(ImageClassifier, "on_train_batch_start", die)
    with pytest.raises(Killed):
        main(command)
    monkeypatch.setattr(ImageClassifier, "on_train_batch_start", original)
    assert main(command) == 0

    unbroken, broken = (tmp_path / "runs" / name / "version_0" for name in ("unbroken", "broken"))
    one, two = (weights(folder / "checkpoints" / "last.ckpt") for folder in (unbroken, broken))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    records = [json.loads((folder / "record.json").read_text()) for folder in (unbroken, broken)]
    for field in ("test_accuracy", "val_accuracy", "epochs"):
        assert records[0][field] == records[1][field]
    curves = [
        [(row["step"], row["val/accuracy"]) for row in csv.DictReader((folder / "metrics.csv").open()) if row["val/accuracy"]]
        for folder in (unbroken, broken)
    ]
    assert curves[0] == curves[1]
    assert {path.name for path in broken.glob("config*")} == {"config.yaml", "config.1.yaml"}

    (broken / "record.json").unlink()  # killed after the last epoch: tested, nothing trained
    assert main(command) == 0
    again = json.loads((broken / "record.json").read_text())
    assert again["test_accuracy"] == records[0]["test_accuracy"]
    assert again["epochs"] == 4


def test_dropout_is_the_same_after_a_resume(tmp_path: Path):
    from unified_extractor.training.callbacks import ReseedEachEpoch

    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    draws = []
    for noise in (0, 5):
        torch.rand(noise)
        ReseedEachEpoch(7).on_train_batch_start(trainer, None, None, 0)  # type: ignore[arg-type]
        draws.append(torch.rand(3))
    assert torch.equal(*draws)


def test_predict_prints_class_and_probability_of_every_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = write_config(tmp_path, trainer__max_epochs=1)
    assert main(["fit", "--config", str(file)]) == 0
    write_images(tmp_path / "photos", 3, size=(9, 12))
    capsys.readouterr()
    best = "runs/tiny/version_0/checkpoints/best.ckpt"
    assert main(["predict", "--config", str(file), f"--ckpt_path={best}", "--data.predict_folder=photos"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["file"] for row in rows] == [f"photos/{index}.png" for index in range(3)]
    assert all(row["class"] in "0123456789" and 0.1 <= float(row["probability"]) <= 1 for row in rows)


def test_norms_and_biases_do_not_decay():
    net = network(spec=presets.unified(channels_per_group=4))
    decayed, kept = parameter_groups(net, 0.1)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    assert len(decayed["params"]) + len(kept["params"]) == len(names)
    norms = {id(p) for module in net.modules() if isinstance(module, nn.BatchNorm2d) for p in module.parameters()}
    biases = {key for key, name in names.items() if name.endswith("bias")}
    assert norms | biases <= {id(parameter) for parameter in kept["params"]}
    assert all(names[id(parameter)].endswith(("weight", "kernel")) for parameter in decayed["params"])


def test_learning_rate_rises_linearly_and_falls_to_zero_by_a_cosine():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=2.0)
    schedule = warmup_cosine(optimizer, steps=20, warmup_steps=4)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(rates[:5], [0.4, 0.8, 1.2, 1.6, 2.0])
    assert rates[12] == pytest.approx(1.0)
    assert all(one > two for one, two in pairwise(rates[4:]))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-8)
    without = torch.optim.SGD([parameter], lr=2.0)
    warmup_cosine(without, steps=20, warmup_steps=0)
    assert without.param_groups[0]["lr"] == 2.0


def test_network_must_fit_the_data():
    check_network(network(), Digits())
    for wrong, name in (({"num_classes": 7}, "num_classes: must be 10"), ({"in_chans": 3}, "in_chans: must be 1")):
        with pytest.raises(ConfigurationError, match=f"model.network.init_args.{name}"):
            check_network(network(**wrong), Digits())
    too_coarse = VOLO(10, depths=(1, 1, 1, 1), widths=(16, 16), heads=(1, 1), stem_width=8, in_chans=1)
    with pytest.raises(ConfigurationError, match=r"model.network: does not take images \[1, 1, 8, 8\]"):
        check_network(too_coarse, Digits())
    with pytest.raises(ConfigurationError, match=r"must give logits \[1, 10\], got \[1, 1, 8, 8\]"):
        check_network(nn.Conv2d(1, 1, 1), Digits())
    training = network().train()
    check_network(training, Digits())
    assert all(module.training for module in training.modules())


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"widths": [16]}, "another shape of"),
        ({"depths": [2]}, "has the unknown"),
        ({"spec": presets.involution(3, channels_per_group=4)}, "lacks"),
        ({"spec": presets.convolution(dilation=2)}, "dilation of .* is 2 there and 1 here"),
    ],
)
def test_checkpoint_of_another_architecture_is_refused(other: dict[str, Any], reason: str):
    saved = network(**other)
    with pytest.raises(ConfigurationError, match=f"ckpt_path: a.ckpt was written by another architecture: .*{reason}"):
        check_checkpoint("a.ckpt", network(), layer_specs(saved), saved.state_dict())
    check_checkpoint("a.ckpt", network(), layer_specs(network()), network().state_dict())


def test_records_are_written_whole_and_never_overwritten(tmp_path: Path):
    path = tmp_path / "record.json"
    write_record(path, {"a": 1})
    with pytest.raises(FileExistsError):
        write_record(path, {"a": 2})
    with pytest.raises(TypeError):
        write_record(tmp_path / "other.json", {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


def test_run_folders_are_numbered_and_claimed_once(tmp_path: Path):
    run = RunFolder("some/run", str(tmp_path))
    for number in range(3):
        folder = run.next()
        assert folder == tmp_path / "some" / "run" / f"version_{number}"
        assert run.claim(folder)
        assert not run.claim(folder)
    assert run.unfinished() is None
    for number, names in ((0, ["checkpoints/last.ckpt", "record.json"]), (1, ["checkpoints/last.ckpt"])):
        for name in names:
            file = run.path / f"version_{number}" / name
            file.parent.mkdir(exist_ok=True)
            file.touch()
    assert run.unfinished() == run.path / "version_1"
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"run: cannot make .*Not a directory"):
        RunFolder("file/run", str(tmp_path)).claim(tmp_path / "file" / "run" / "version_0")
    for name in ("", "/tmp/x", "../x"):
        with pytest.raises(ValueError, match="name must be"):
            RunFolder(name)
