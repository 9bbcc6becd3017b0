"""Every committed configuration parses, and every run's trains for a step."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.image_folders import image_folder
from tests.support.segmentation import segmentation_folder
from tests.support.torchvision_files import write_cifar, write_fashion_mnist
from unified_extractor import ExtractorSpec, presets
from unified_extractor.__main__ import main as uniex
from unified_extractor.data import CIFAR10, CIFAR100
from unified_extractor.training.cli.training_cli import main

CONFIGS = Path(__file__).parents[1] / "configs"
PRESETS = {
    "carafe": presets.carafe(),
    "conditional_convolution": presets.conditional_convolution(),
    "attconv": presets.attconv(),
    "contmix": presets.contmix(),
    "dwnet": presets.dwnet(),
    "convolution": presets.convolution(),
    "deformable_convolution_v1": presets.deformable_convolution(1),
    "deformable_convolution_v2": presets.deformable_convolution(2),
    "deformable_convolution_v3": presets.deformable_convolution(3),
    "deformable_convolution_v4": presets.deformable_convolution(4),
    "dcls": presets.dcls(),
    "ddf": presets.ddf(),
    "deformable_attention": presets.deformable_attention(),
    "dysample": presets.dysample(),
    "dynamic_convolution": presets.dynamic_convolution(),
    "depthwise_convolution": presets.depthwise_convolution(),
    "gated_convolution": presets.gated_convolution(),
    "idconv": presets.idconv(),
    "grouped_convolution": presets.grouped_convolution(),
    "involution": presets.involution(),
    "local_attention": presets.local_attention(),
    "ls_convolution": presets.ls_convolution(),
    "neighborhood_attention": presets.neighborhood_attention(),
    "outlook_attention": presets.outlook_attention(),
    "qna": presets.qna(),
    "pac": presets.pac(),
    "squeeze_excitation": presets.squeeze_excitation(),
    "unified": presets.unified(),
    "window_attention": presets.window_attention(),
}
DIGITS = {
    "convolution": presets.convolution(),
    "deformable_convolution": presets.deformable_convolution(2),
    "involution": presets.involution(kernel_size=3),
    "outlook_attention": presets.outlook_attention(),
    "unified": presets.unified(),
}
IMAGENET = {"rednet50": 2048, "volo_d1": 1024, "internimage_t": 4096}
"""The runs on ImageNet and the images of a step."""
CIFAR_NETWORKS = {"cifar10/resnet20": 128, "cifar10/resnet56": 128, "cifar100/resnet56": 128, "cifar10/fast_net_s": 1024}
"""The runs of published networks on CIFAR and the images of a step."""
STEP = ["--trainer.fast_dev_run=true", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]


pytestmark = pytest.mark.usefixtures("in_empty_folder")


def parsed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Return the configuration as the command line parses it, without running it."""
    capsys.readouterr()
    assert main(["fit", *arguments, "--print_config"]) == 0
    settings: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return settings


def test_every_extractor_and_run_is_known_to_these_tests():
    assert {path.stem for path in (CONFIGS / "extractor").glob("*")} == set(PRESETS)
    assert {path.stem for path in (CONFIGS / "digits").glob("*")} == set(DIGITS)
    assert {
        str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml") if path.parent.name not in ("extractor", "digits")
    } == {
        *(f"imagenet/{name}.yaml" for name in IMAGENET),
        *(f"{name}/unified.yaml" for name in ("cifar10", "cifar100", "fashion_mnist", "image_folder")),
        "camvid/unified.yaml",
        *(f"{name}.yaml" for name in CIFAR_NETWORKS),
        "sweeps/digits.yaml",
    }


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", PRESETS)
def test_extractor_file_is_the_preset_complete(name: str, capsys: pytest.CaptureFixture[str]):
    file = CONFIGS / "extractor" / f"{name}.yaml"
    values = yaml.safe_load(file.read_text())
    assert ExtractorSpec(**values) == PRESETS[name]
    assert values.keys() == {field.name for field in dataclasses.fields(ExtractorSpec)}
    for key, value in dataclasses.asdict(PRESETS[name]).items():
        if isinstance(value, dict):
            assert values[key].keys() == value.keys()
    run = CONFIGS / "digits" / "convolution.yaml"
    settings = parsed(capsys, "--config", str(run), f"--model.network.init_args.spec={file}")
    assert ExtractorSpec(**settings["model"]["network"]["init_args"]["spec"]) == PRESETS[name]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", DIGITS)
def test_digits_runs_differ_only_in_the_extractor(name: str, capsys: pytest.CaptureFixture[str]):
    settings, plain = (parsed(capsys, "--config", str(CONFIGS / "digits" / f"{file}.yaml")) for file in (name, "convolution"))
    assert settings["run"].pop("name") == f"digits/{name}"
    plain["run"].pop("name")
    spec = settings["model"]["network"]["init_args"].pop("spec")
    plain["model"]["network"]["init_args"].pop("spec")
    assert ExtractorSpec(**spec) == DIGITS[name]
    assert settings == plain


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", DIGITS)
def test_digits_runs_train_for_a_step(name: str, tmp_path: Path):
    assert main(["fit", "--config", str(CONFIGS / "digits" / f"{name}.yaml"), *STEP]) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", ["rednet26", "resnet26", "internimage_t", "flash_internimage_t"])
def test_a_variant_of_a_family_trains_by_its_name(name: str):
    network = ["--model.network", f"unified_extractor.models.{name}"]
    sizes = ["--model.network.num_classes=10", "--model.network.in_chans=1", "--model.network.drop_path_rate=0.1"]
    assert main(["fit", "--config", str(CONFIGS / "digits" / "convolution.yaml"), *network, *sizes, *STEP]) == 0


CIFAR10_NAMES = CIFAR10().class_names


def test_image_folder_run_trains_for_a_step(tmp_path: Path):
    image_folder(tmp_path / "data" / "images", classes=CIFAR10_NAMES, train=15)
    assert main(["fit", "--config", str(CONFIGS / "image_folder" / "unified.yaml"), *STEP]) == 0


def test_camvid_run_trains_for_a_step(tmp_path: Path):
    segmentation_folder(tmp_path / "data" / "camvid", size=(180, 240))
    classes = ["--data.classes", str(CONFIGS / "camvid" / "classes.csv"), "--data.ignore_index=7"]
    assert main(["fit", "--config", str(CONFIGS / "camvid" / "unified.yaml"), *classes, *STEP]) == 0


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("name", "kind"), [("cifar10", CIFAR10), ("cifar100", CIFAR100)])
def test_cifar_runs_train_for_a_step(name: str, kind: type[CIFAR10], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_cifar(tmp_path / "data" / name, kind, monkeypatch, per_class=4)
    assert main(["fit", "--config", str(CONFIGS / name / "unified.yaml"), *STEP]) == 0


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", CIFAR_NETWORKS)
def test_networks_for_cifar_train_for_a_step(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    data, kind = name.split("/")[0], CIFAR100 if "100" in name else CIFAR10
    config = str(CONFIGS / f"{name}.yaml")
    assert parsed(capsys, "--config", config)["data"]["init_args"]["batch_size"] == CIFAR_NETWORKS[name]
    write_cifar(tmp_path / "data" / data, kind, monkeypatch, per_class=4)
    assert main(["fit", "--config", config, "--data.batch_size=8", *STEP]) == 0


def test_fashion_mnist_run_trains_for_a_step(tmp_path: Path):
    write_fashion_mnist(tmp_path / "data" / "fashion_mnist", train=200, test=20)
    assert main(["fit", "--config", str(CONFIGS / "fashion_mnist" / "unified.yaml"), *STEP]) == 0


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_runs_train_for_a_step_of_a_few_images(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = str(CONFIGS / "imagenet" / f"{name}.yaml")
    settings = parsed(capsys, "--config", config)
    trainer = settings["trainer"]
    images = settings["data"]["init_args"]["batch_size"] * trainer["devices"] * (trainer["accumulate_grad_batches"] or 1)
    assert (images, trainer["precision"]) == (IMAGENET[name], "bf16-mixed")
    image_folder(tmp_path / "data" / "imagenet", train=3)
    small = ["--model.network.init_args.num_classes=2", "--data.batch_size=2", "--data.loading.num_workers=0"]
    if name != "volo_d1":  # whose position embedding is of one size
        small += ["--data.image_size=64"]
    one = ["--trainer.devices=1", "--trainer.strategy=auto", "--trainer.precision=32-true", "--trainer.accumulate_grad_batches=1"]
    assert main(["fit", "--config", config, *small, *one, *STEP]) == 0


def test_the_sweep_lists_its_cells(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert uniex(["sweep", "sweeps/digits", "--dry_run"]) == 0
    assert not list(tmp_path.iterdir())


def test_a_run_may_stand_anywhere_and_name_its_extractor_from_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(CONFIGS, tmp_path / "elsewhere")
    settings = parsed(capsys, "--config", "elsewhere/image_folder/unified.yaml")
    assert ExtractorSpec(**settings["model"]["network"]["init_args"]["spec"]) == presets.unified()


def test_headers_state_the_command(tmp_path: Path):
    for file in CONFIGS.rglob("*.yaml"):
        if file.parent.name != "extractor":
            path, text = file.relative_to(CONFIGS.parent), file.read_text()
            command = f"sweep {path}" if file.parent.name == "sweeps" else f"fit --config {path}"
            assert f"# Command: uniex {command}" in text
            assert "# Time" in text
