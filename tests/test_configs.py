"""Every committed configuration parses, and every run's trains for a step."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.image_folders import image_folder
from unified_extractor import ExtractorSpec, presets
from unified_extractor.training.cli import main

CONFIGS = Path(__file__).parents[1] / "configs"
PRESETS = {
    "convolution": presets.convolution(),
    "deformable_convolution_v1": presets.deformable_convolution(1),
    "deformable_convolution_v2": presets.deformable_convolution(2),
    "deformable_convolution_v3": presets.deformable_convolution(3),
    "deformable_convolution_v4": presets.deformable_convolution(4),
    "depthwise_convolution": presets.depthwise_convolution(),
    "grouped_convolution": presets.grouped_convolution(),
    "involution": presets.involution(),
    "local_attention": presets.local_attention(),
    "ls_convolution": presets.ls_convolution(),
    "neighborhood_attention": presets.neighborhood_attention(),
    "outlook_attention": presets.outlook_attention(),
    "squeeze_excitation": presets.squeeze_excitation(),
    "unified": presets.unified(),
}
DIGITS = {
    "convolution": presets.convolution(),
    "deformable_convolution": presets.deformable_convolution(2),
    "involution": presets.involution(kernel_size=3),
    "outlook_attention": presets.outlook_attention(),
    "unified": presets.unified(),
}
STEP = ["--trainer.fast_dev_run=true", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]


@pytest.fixture(autouse=True)
def one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    yield
    torch.set_num_threads(threads)


def parsed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The configuration as the command line understands it, without running it."""
    capsys.readouterr()
    assert main(["fit", *arguments, "--print_config"]) == 0
    settings: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return settings


def test_every_extractor_and_run_is_known_to_these_tests():
    assert {path.stem for path in (CONFIGS / "extractor").glob("*")} == set(PRESETS)
    assert {path.stem for path in (CONFIGS / "digits").glob("*")} == set(DIGITS)
    assert {path.parent.name for path in CONFIGS.rglob("*.yaml")} == {"extractor", "digits", "cifar10_folder"}


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


@pytest.mark.parametrize("name", DIGITS)
def test_digits_runs_differ_in_the_extractor_alone(name: str, capsys: pytest.CaptureFixture[str]):
    settings, plain = (parsed(capsys, "--config", str(CONFIGS / "digits" / f"{file}.yaml")) for file in (name, "convolution"))
    assert settings["run"].pop("name") == f"digits/{name}"
    plain["run"].pop("name")
    spec = settings["model"]["network"]["init_args"].pop("spec")
    plain["model"]["network"]["init_args"].pop("spec")
    assert ExtractorSpec(**spec) == DIGITS[name]
    assert settings == plain


@pytest.mark.parametrize("name", DIGITS)
def test_digits_runs_train_for_a_step(name: str, tmp_path: Path):
    assert main(["fit", "--config", str(CONFIGS / "digits" / f"{name}.yaml"), *STEP]) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["rednet26", "resnet26", "internimage_t", "flash_internimage_t"])
def test_a_variant_of_a_family_trains_by_its_name(name: str):
    network = ["--model.network", f"unified_extractor.models.{name}"]
    sizes = ["--model.network.num_classes=10", "--model.network.in_chans=1", "--model.network.drop_path_rate=0.1"]
    assert main(["fit", "--config", str(CONFIGS / "digits" / "convolution.yaml"), *network, *sizes, *STEP]) == 0


def test_cifar10_folder_run_trains_for_a_step(tmp_path: Path):
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    image_folder(tmp_path / "data" / "cifar10", classes=names, train=10)
    assert main(["fit", "--config", str(CONFIGS / "cifar10_folder" / "unified.yaml"), *STEP]) == 0


def test_a_run_may_stand_anywhere_and_name_its_extractor_from_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(CONFIGS, tmp_path / "elsewhere")
    settings = parsed(capsys, "--config", "elsewhere/cifar10_folder/unified.yaml")
    assert ExtractorSpec(**settings["model"]["network"]["init_args"]["spec"]) == presets.unified()


def test_headers_state_the_command(tmp_path: Path):
    for file in CONFIGS.rglob("*.yaml"):
        if file.parent.name != "extractor":
            path = file.relative_to(CONFIGS.parent)
            assert f"# Command: uniex fit --config {path}\n" in file.read_text()
