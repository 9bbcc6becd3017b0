"""Every mistake of a user: exit code 2 and one line that names the path in the file and the rule. Never a traceback."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml

from tests.support.image_folders import image_folder
from tests.support.tiny_runs import tiny_config
from unified_extractor.__main__ import main
from unified_extractor.training.cli.parser_errors import one_line
from unified_extractor.training.cli.training_cli import FIRST_OPTIONS

Change = Callable[[dict[str, Any]], Any]


pytestmark = [pytest.mark.usefixtures("in_empty_folder"), pytest.mark.trial]


def config() -> dict[str, Any]:
    settings = tiny_config()
    settings["trainer"]["max_epochs"] = 1
    return settings


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str, change: Change = lambda _: None, command: str = "fit") -> str:
    """Return the line that ``uniex`` prints for this configuration."""
    settings = config()
    change(settings)
    Path("run.yaml").write_text(yaml.safe_dump(settings))
    capsys.readouterr()
    assert main([command, "--config", "run.yaml", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("uniex: error: ")
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err + printed.out
    assert "usage" not in printed.err
    assert len(printed.err) < 400
    assert not Path("runs").exists()
    return printed.err.removeprefix("uniex: error: ").strip()


def arguments_of(settings: dict[str, Any]) -> dict[str, Any]:
    return settings["model"]["network"]["init_args"]


def spec(**values: Any) -> Change:
    return lambda settings: arguments_of(settings).update(spec=values)


def callback(name: str, **arguments: Any) -> Change:
    one = {"class_path": f"lightning.pytorch.callbacks.{name}", "init_args": arguments}
    return lambda settings: settings["trainer"].update(callbacks=[one])


def network(class_path: str, **arguments: Any) -> Change:
    def change(settings: dict[str, Any]) -> None:
        settings["model"]["network"] = {"class_path": class_path, "init_args": arguments}
        settings["data"]["init_args"]["batch_size"] = 1

    return change


class Flat(torch.nn.Sequential):
    """A network of a user's for images of one size."""

    def __init__(self, size: int) -> None:
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(size**2, 10))


class Branches(torch.nn.Module):
    """A network of a user's with several outputs, but a single one where it is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> Any:
        logits = self.head(images.flatten(1))
        return (logits, logits) if self.training else logits


class Stubborn(torch.nn.Module):
    """A network of a user's that cannot be made."""

    def __init__(self) -> None:
        raise KeyError("no such thing")


GENERATED = {"source": "generated", "channels_per_group": 5}
CALLBACK = "trainer.callbacks[0]"
NETWORK = "model.network.init_args"
DENSE = {"channels": "dense"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (spec(kernel_sise=3, static_kernel=DENSE), f"{NETWORK}.spec.kernel_sise: unknown key, did you mean kernel_size?"),
        (spec(static_kernel={"chanels": "dense"}), f"{NETWORK}.spec.static_kernel.chanels: unknown key, did you mean channels?"),
        (lambda c: arguments_of(c).update(spec=[{"kernel_sise": 3}]), f"{NETWORK}.spec.kernel_sise: unknown key"),
        (lambda c: arguments_of(c).update(widhts=[8]), f"{NETWORK}.widhts: unknown key, did you mean widths?"),
        (lambda c: c["model"].update(label_smoothin=0.1), "model.label_smoothin: unknown key, did you mean label_smoothing?"),
        (
            lambda c: c["model"].update(optimization={"learning_rat": 1.0}),
            "model.optimization.learning_rat: unknown key, did you mean learning_rate?",
        ),
        (
            lambda c: c["data"]["init_args"].update(augmentation={"flipp": True}),
            "data.init_args.augmentation.flipp: unknown key, did you mean flip?",
        ),
        (lambda c: c["model"].update(netwrk=c["model"].pop("network")), "model.netwrk: unknown key, did you mean network?"),
        (lambda c: c["data"]["init_args"].update(batchsize=1), "data.init_args.batchsize: unknown key, did you mean batch_size?"),
        (lambda c: c["trainer"].update(max_epoch=1), "trainer.max_epoch: unknown key, did you mean max_epochs?"),
        (lambda c: c.update(run={"nam": "x"}), "run.nam: unknown key, did you mean name?"),
        (lambda c: c.update(trainr={"max_epochs": 1}), "trainr: unknown key, did you mean trainer?"),
    ],
)
def test_misspelled_keys_are_named(capsys: pytest.CaptureFixture[str], change: Change, expected: str):
    assert refusal(capsys, change=change).startswith(expected)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (spec(kernel_size="abc", static_kernel=DENSE), f"{NETWORK}.spec.kernel_size: expected int or tuple[int, int], got 'abc'"),
        (
            spec(static_kernel={"channels": "dens"}),
            f"{NETWORK}.spec.static_kernel.channels: expected one of 'none', 'dense', 'depthwise', got 'dens', did you mean dense?",
        ),
        (
            lambda c: c["data"]["init_args"].update(augmentation=[1]),
            "data.init_args.augmentation: expected a mapping or the name of a file, got [1]",
        ),
        (lambda c: c["model"].update(optimization=3), "model.optimization: expected a mapping or the name of a file, got 3"),
        (lambda c: arguments_of(c).update(spec=""), f"{NETWORK}.spec: no such file:"),
        (spec(static_kernel="dense"), f"{NETWORK}.spec.static_kernel: expected a mapping or the name of a file, got 'dense'"),
        (spec(static_kernel=DENSE, bias="perhaps"), f"{NETWORK}.spec.bias: expected bool or one of 'mixed', got 'perhaps'"),
        (lambda c: arguments_of(c).update(num_classes="ten"), f"{NETWORK}.num_classes: expected int, got 'ten'"),
        (
            lambda c: c["model"].update(optimization={"learning_rate": "fast"}),
            "model.optimization.learning_rate: expected float, got 'fast'",
        ),
        (
            lambda c: c["model"].update(optimization={"optimizer": "adam"}),
            "model.optimization.optimizer: expected one of 'adamw', 'sgd', got 'adam', did you mean adamw?",
        ),
        (lambda c: c["trainer"].update(max_epochs="many"), "trainer.max_epochs: expected int or null, got 'many'"),
        (lambda c: c.update(seed_everything="x"), "seed_everything: expected int, got 'x'"),
    ],
)
def test_wrong_types_are_named(capsys: pytest.CaptureFixture[str], change: Change, expected: str):
    assert refusal(capsys, change=change) == expected


def test_a_list_of_objects_as_text_names_the_class_that_does_not_exist(capsys: pytest.CaptureFixture[str]):
    given = "--trainer.callbacks=[{class_path: %s}]"
    assert refusal(capsys, given % "my.Callback") == "trainer.callbacks: no such file or class: my.Callback"
    nearest = "did you mean lightning.pytorch.callbacks.EarlyStopping?"
    assert refusal(capsys, given % "EarlyStoping") == f"trainer.callbacks: no class or file EarlyStoping, {nearest}"


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            spec(static_kernel={"channels": "depthwise", "groups": 2}),
            f"{NETWORK}.spec: static_kernel.groups needs static_kernel.channels='dense'",
        ),
        (spec(kernel_size=3), f"{NETWORK}.spec: static_kernel.channels and dynamic_kernel.source are both 'none'"),
        (
            lambda c: arguments_of(c).update(widths=[8, 8], depths=[1, 1], spec=[{"static_kernel": DENSE}, {"kernel_size": 3}]),
            f"{NETWORK}.spec[1]: static_kernel.channels and dynamic_kernel.source are both 'none'",
        ),
        (spec(dynamic_kernel={"source": "generated", "channels_per_group": 5}), "model.network: "),
        (lambda c: arguments_of(c).update(depths=[1, 1]), "model.network: "),
        (lambda c: arguments_of(c).update(num_classes=7), f"{NETWORK}.num_classes: must be 10 for Digits, got 7"),
        (lambda c: arguments_of(c).update(in_chans=3), f"{NETWORK}.in_chans: must be 1 for Digits, got 3"),
        (lambda c: c["model"].update(label_smoothing=1.5), "model: label_smoothing must lie in [0, 1), got 1.5"),
        (
            lambda c: c["model"].update(optimization={"learning_rate": -1.0}),
            "model.optimization: learning_rate must be positive, got -1.0",
        ),
        (
            lambda c: c["data"]["init_args"].update(augmentation={"erasing": 2.0}),
            "data.init_args.augmentation: erasing must lie in [0, 1], got 2.0",
        ),
        (
            lambda c: c["data"]["init_args"].update(augmentation={"color_jitter": 0.1}, loading={"on_device": True}),
            "data.init_args.loading.on_device: true needs images that fit into memory",
        ),
        (lambda c: c.update(threads=0), "threads: must be at least 1, got 0"),
        (lambda c: c.update(checkpoint_every_n_steps=0), "checkpoint_every_n_steps: must be at least 1, got 0"),
        (lambda c: c.update(seed_everything=-1), "seed_everything: must lie in 0..4294967295, got -1"),
        (lambda c: c["trainer"].update(default_root_dir="x"), "trainer.default_root_dir: cannot be set, a run's files lie below"),
        (lambda c: c["trainer"].update(val_check_interval=0.5), "trainer.val_check_interval: cannot be set"),
        (lambda c: c["trainer"].update(max_steps=5), "trainer.max_steps: must end with an epoch, which has 8 steps here, got 5"),
        (lambda c: c["trainer"].update(max_epochs=-1), "trainer.max_epochs: must be set"),
        (
            lambda c: c["trainer"].update(callbacks=[{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint"}]),
            "trainer.callbacks[0]: ModelCheckpoint is left out, a run keeps its own checkpoints",
        ),
        (
            lambda c: c["trainer"].update(precision="16-mixed", accelerator="cpu"),
            "trainer.precision: 16-mixed is for GPUs, here Lightning would take bf16-mixed",
        ),
        (lambda c: c["trainer"].update(barebones=True), "trainer.barebones: cannot be set"),
        (lambda c: c["trainer"].update(accelerator="gpu"), "trainer.accelerator: 'gpu' is not there, torch sees no GPU"),
        (
            lambda c: c["trainer"].update(devices=-1),
            "trainer.devices: TypeError: `devices` selected with `CPUAccelerator` should",
        ),
        (lambda c: c["trainer"].update(logger="MLFlowLogger"), "trainer.logger: ModuleNotFoundError: Requirement 'mlflow"),
        (lambda c: c["trainer"].update(logger="WandbLogger"), "trainer.logger: ModuleNotFoundError: Requirement 'wandb"),
        (
            callback("EarlyStopping", monitor="val_loss"),
            f"{CALLBACK}.init_args.monitor: there is no metric val_loss, did you mean val/loss",
        ),
        (callback("BackboneFinetuning"), f"{CALLBACK}: AttributeError: 'ImageClassifier' object has no attribute 'backbone'"),
        (callback("SpikeDetection"), f"{CALLBACK}: AttributeError: 'SpikeDetection' object has no attribute 'running'"),
        (callback("BatchSizeFinder"), f"{CALLBACK}: BatchSizeFinder changes the batch size behind the configuration"),
        (
            callback("StochasticWeightAveraging", swa_lrs=0.1),
            f"{CALLBACK}: StochasticWeightAveraging changes the learning rate and",
        ),
        (callback("LearningRateFinder"), f"{CALLBACK}: LearningRateFinder changes the learning rate behind"),
        (callback("EarlyStopping", monitor="val/loss", mode="up"), f"{CALLBACK}: `mode` can be min, max, got up"),
        (
            network("unified_extractor.models.rednet26", in_chans=1, num_classes=10),  # with nothing compiled
            "model.network: a step on images [1, 1, 8, 8] fails: Expected more than 1 value per channel when training",
        ),
        (
            network("torchvision.models.resnet18", num_classes=10),
            "model.network: does not take images [1, 1, 8, 8] of Digits: Invalid channel dimensions; its first convolution takes 3",
        ),
        (network("tests.test_cli_errors.Flat", size=7), "model.network: does not take images [1, 1, 8, 8] of Digits: "),
        (
            network("timm.create_model", model_name="resnet18", num_classes=10),
            f"{NETWORK}.num_classes: unknown key; what is passed on is given as dict_kwargs.num_classes, beside init_args",
        ),
        (network("timm.create_model", model_name="resnet81"), "model.network: Unknown model (resnet81)"),
        (
            network("unified_extractor.models.rednet26", in_chans=1, num_classes=10, spec={"dynamic_kernel": GENERATED}),
            "model.network: spec does not fit into stage 1",
        ),
        (network("tests.test_cli_errors.Branches"), "model.network: must give logits [1, 10], got tuple"),
        (network("tests.test_cli_errors.Stubborn"), "model.network: KeyError: 'no such thing'"),
        (lambda c: c["data"]["init_args"].update(batch_size=0), "data: batch_size must be at least 1, got 0"),
        (
            lambda c: c["data"]["init_args"].update(batch_size=2000),
            "data.init_args.batch_size: must not exceed the training images",
        ),
        (lambda c: c["trainer"].update(accelerator="abacus"), "trainer.accelerator: You selected an invalid accelerator name"),
        (lambda c: c.update(run={"name": "../x"}), "run: name must be a relative path"),
    ],
)
def test_impossible_combinations_name_rule_and_values(capsys: pytest.CaptureFixture[str], change: Change, expected: str):
    assert refusal(capsys, change=change).startswith(expected)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda c: c["model"]["network"].update(class_path="unified_extractor.models.Extractor"),
            "model.network: unified_extractor.models has no Extractor, did you mean ExtractorNet?",
        ),
        (
            lambda c: c["data"].update(class_path="unified_extractor.data.Digit"),
            "data: unified_extractor.data has no Digit, did you mean Digits?",
        ),
        (lambda c: c.pop("data"), "data: required, but not given"),
        (
            lambda c: c["model"].update(network="RedNet26"),
            "model.network: no class or file RedNet26, did you mean unified_extractor.models.rednet26?",
        ),
        (lambda c: c.update(data="Digit"), "data: no class or file Digit, did you mean unified_extractor.data.Digits?"),
        (
            lambda c: c["trainer"].update(callbacks=["EarlyStop"]),
            "trainer.callbacks: no class or file EarlyStop, did you mean lightning.pytorch.callbacks.EarlyStopping?",
        ),
        (
            lambda c: c["trainer"].update(logger="TensorBoardLoger"),
            "trainer.logger: no class or file TensorBoardLoger, did you mean lightning.pytorch.loggers.TensorBoardLogger?",
        ),
        (lambda c: c["model"].pop("network"), "model.network: required, but not given"),
        (lambda c: arguments_of(c).update(spec="no.yaml"), f"{NETWORK}.spec: no such file: no.yaml"),
    ],
)
def test_missing_things_are_named(capsys: pytest.CaptureFixture[str], change: Change, expected: str):
    assert refusal(capsys, change=change).startswith(expected)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "config: other.yaml: No such file or directory"),
        (b"model:\n  network: [\n  x: 1\n", "config: other.yaml is not valid YAML, line "),
        (b"- 1\n", "config: other.yaml must hold 'key: value' lines"),
        (b"\x89PNG\x00", "config: other.yaml is not a YAML file"),
    ],
)
def test_unreadable_config_files_are_named(capsys: pytest.CaptureFixture[str], content: bytes | None, expected: str):
    if content is not None:
        Path("other.yaml").write_bytes(content)
    assert refusal(capsys, "--config", "other.yaml").startswith(expected)


def test_more_devices_than_there_are_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    line = refusal(capsys, "--trainer.accelerator=gpu", "--trainer.devices=4")
    assert line == "trainer.devices: 4 are asked for, torch sees 2 on this machine"


def test_a_batch_that_the_ranks_cannot_fill_is_named(capsys: pytest.CaptureFixture[str]):
    line = refusal(capsys, "--trainer.devices=4", "--trainer.strategy=ddp", "--data.batch_size=300")
    assert line == "data.init_args.batch_size: must not exceed the training images, got 300 on each of 4 devices, 1151 images"


def test_unknown_options_and_values_of_the_command_line_are_named(capsys: pytest.CaptureFixture[str]):
    assert refusal(capsys, "--foo", "3").startswith("foo: unknown key, expected one of model, data, trainer, run")
    network = ("--model.network", "unified_extractor.models.rednet51")
    assert refusal(capsys, *network) == "model.network: unified_extractor.models has no rednet51, did you mean rednet50?"
    assert refusal(capsys, "--trainer.max_epoch", "3") == "trainer.max_epoch: unknown key, did you mean max_epochs?"
    assert refusal(capsys, "--trainer.max_epochs", "x").startswith("trainer.max_epochs: expected int")


def folder_data(root: Path) -> Change:
    def change(settings: dict[str, Any]) -> None:
        settings["data"] = {
            "class_path": "unified_extractor.data.ImageFolder",
            "init_args": {"root": str(root), "image_size": 8, "batch_size": 4},
        }
        arguments_of(settings).update(num_classes=2, in_chans=3)

    return change


def test_broken_data_folders_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    root = tmp_path / "images"
    assert refusal(capsys, change=folder_data(root)).startswith(f"data: {root}/train: no such folder")
    image_folder(root)
    bad = root / "train" / "cat" / "3.png"
    good = bad.read_bytes()
    bad.write_bytes(good[:50])
    assert refusal(capsys, change=folder_data(root)).startswith(f"data: {bad}: not a readable image")
    bad.write_bytes(good)
    (root / "train" / "eel").mkdir()
    assert refusal(capsys, change=folder_data(root)).startswith(f"data: {root}/train/eel: no images in this folder")
    assert refusal(capsys, change=lambda c: c["data"].update(class_path="unified_extractor.data.CIFAR10")).startswith(
        "data: data: CIFAR10 is not there or incomplete; pass download=true"
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_image_that_breaks_during_the_run_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
):
    monkeypatch.setattr("unified_extractor.data.image_folder.MEMORY_LIMIT", 0)
    root = image_folder(tmp_path / "images")
    bad = root / "train" / "dog" / "3.png"
    bad.write_bytes(b"")

    def change(settings: dict[str, Any]) -> None:
        folder_data(root)(settings)
        settings["trainer"]["fast_dev_run"] = 10
        settings["data"]["init_args"].update(loading={"num_workers": workers}, validation_fraction=0.1)

    assert refusal(capsys, change=change).startswith(f"data: {bad}: not a readable image")


def test_checkpoints_that_cannot_be_used_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert refusal(capsys, command="test") == "ckpt_path: test needs the checkpoint file of a trained network, got none"
    for command in ("fit", "test"):
        assert refusal(capsys, "--ckpt_path=no.ckpt", command=command) == "ckpt_path: no such file: no.ckpt"
    assert main(["fit", "--config", "run.yaml", "--run.root=elsewhere"]) == 0
    best = Path("elsewhere/run/version_0/checkpoints/best.ckpt")
    content = best.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"hello"):
        Path("bad.ckpt").write_bytes(damaged)
        assert refusal(capsys, "--ckpt_path=bad.ckpt", command="test") == "ckpt_path: not a readable checkpoint: bad.ckpt"
    torch.save({"a": 1}, "other.ckpt")
    assert refusal(capsys, "--ckpt_path=other.ckpt", command="test") == "ckpt_path: not a checkpoint of a run: other.ckpt"

    wider = {"change": lambda c: arguments_of(c).update(widths=[16])}
    dilated = {"change": spec(static_kernel=DENSE, dilation=2)}
    for other, reason in ((wider, "another shape of"), (dilated, "dilation of")):
        line = refusal(capsys, f"--ckpt_path={best}", command="test", **other)  # type: ignore[arg-type]
        assert line.startswith(f"ckpt_path: {best} was written by another architecture: ")
        assert reason in line
    assert best.read_bytes() == content


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    def broken(*_: Any) -> None:
        raise ValueError("a bug")

    Path("run.yaml").write_text(yaml.safe_dump(config()))
    monkeypatch.setattr("unified_extractor.training.classifier.ImageClassifier.training_step", broken)
    with pytest.raises(ValueError, match="a bug"):
        main(["fit", "--config", "run.yaml", "--trainer.fast_dev_run=true"])


class Failing(L.Callback):
    """A callback of a user's that fails in one of its methods."""

    def __init__(self, hook: str) -> None:
        setattr(self, hook, self.fail)

    def fail(self, *_: Any, **__: Any) -> None:
        raise KeyError("mine")


@pytest.mark.parametrize("hook", ["setup", "on_fit_start", "on_train_batch_start"])
def test_a_run_that_fails_before_its_first_step_leaves_no_folder(capsys: pytest.CaptureFixture[str], hook: str):
    settings = config()
    settings["trainer"]["callbacks"] = [{"class_path": f"{__name__}.Failing", "init_args": {"hook": hook}}]
    Path("run.yaml").write_text(yaml.safe_dump(settings))
    assert main(["fit", "--config", "run.yaml"]) == 2
    assert capsys.readouterr().err == "uniex: error: trainer.callbacks[0]: KeyError: 'mine'\n"
    assert not list(Path("runs").glob("run/version_*"))


def test_the_trial_changes_nothing_of_the_run():
    settings = config()
    settings["model"]["network"]["init_args"]["drop_rate"] = 0.5
    Path("run.yaml").write_text(yaml.safe_dump(settings))
    states = []
    for tried in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not tried:
                patch.setattr("unified_extractor.training.cli.training_cli.try_steps", lambda *_: None)
            assert main(["fit", "--config", "run.yaml"]) == 0
        folder = Path(f"runs/run/version_{len(states)}")
        states.append(torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"])
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_help_is_no_error_and_begins_with_the_options_that_matter(capsys: pytest.CaptureFixture[str]):
    assert main(["fit", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--seed_everything" in text
    first, known = re.findall(r"^  (--[\w.]+) ", text.partition("options:\n")[0], re.MULTILINE), text.partition("options:\n")[2]
    assert first == ["--config", "--run.name", "--ckpt_path"]
    assert all(f"{option} " in known for option in first)
    for options in FIRST_OPTIONS.values():
        assert len(options) == 3


def test_a_message_of_unknown_form_stays_readable():
    assert one_line("something\n  went\n  wrong") == "something went wrong"


@pytest.mark.parametrize("name", ["max_epochs", "limit_train_batches", "limit_val_batches", "limit_test_batches"])
def test_a_fit_that_cannot_train_validate_and_test_is_refused_before_it_starts(capsys: pytest.CaptureFixture[str], name: str):
    line = refusal(capsys, f"--trainer.{name}", "0")
    assert line == f"trainer.{name}: must not be 0, fit trains, validates and tests"


def test_predict_needs_a_folder(capsys: pytest.CaptureFixture[str]):
    Path("run.yaml").write_text(yaml.safe_dump(config()))
    assert main(["fit", "--config", "run.yaml", "--run.root=elsewhere"]) == 0
    best = "elsewhere/run/version_0/checkpoints/best.ckpt"
    line = refusal(capsys, f"--ckpt_path={best}", command="predict")
    assert line == "data.init_args.predict_folder: predict needs images or folders of images, got none"
    assert refusal(capsys, "--ckpt_path=last", command="test").endswith("of a trained network, got last")


def test_a_broken_test_split_is_found_before_training(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    image_folder(tmp_path / "images")
    broken = next((tmp_path / "images" / "test").rglob("*.png"))
    broken.write_bytes(b"not an image")
    assert broken.name in refusal(capsys, change=folder_data(tmp_path / "images"))
