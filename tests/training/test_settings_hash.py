"""A configuration's hash changes with whatever decides a number, and with nothing else: it outlives refactorings."""

import copy
import dataclasses
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.support.tiny_runs import tiny_config, write_config
from unified_extractor import ExtractorSpec, models
from unified_extractor import options as names
from unified_extractor.training.architecture import check_checkpoint, layer_specs
from unified_extractor.training.cli.planned_run import ParsedRun
from unified_extractor.training.cli.training_cli import main
from unified_extractor.training.errors import ConfigurationError
from unified_extractor.training.run.settings_hash import canonical_form, config_hash, saved_config_hash

NETWORK = "model.network.init_args"
PINNED = "3a5abac1cea9"
"""The hash of the tiny run, of seed 0."""


def changed(path: str = "", value: Any = None, **others: Any) -> dict[str, Any]:
    """The tiny run with another value at a dotted path."""
    config = tiny_config()
    for place, new in {path: value, **others}.items():
        *groups, last = place.split(".")
        target = config
        for group in groups:
            target = target.setdefault(group, {})
        if last:
            target[last] = new
    return config


def test_the_form_holds_what_differs_from_a_default_and_no_module():
    form = canonical_form(tiny_config())
    network = {"num_classes": 10, "in_chans": 1, "widths": [8], "depths": [1], "spec": {"static_kernel": {"channels": "dense"}}}
    assert form["model"] == {"optimization": {"learning_rate": 0.01}, "network": {"class": "ExtractorNet", **network}}
    assert form["data"] == {"class": "Digits", "batch_size": 128}
    assert form["trainer"] == {"max_epochs": 2, "accelerator": "cpu"}


def test_a_configuration_as_written_and_as_resolved_have_one_hash_that_stays(tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(tiny_config()))
    settings = ParsedRun(["--config", str(file)]).settings
    assert config_hash(settings) == config_hash({**tiny_config(), "seed_everything": 0}) == PINNED


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.optimization.learning_rate", 0.02),
        (f"{NETWORK}.spec", {"static_kernel": {"channels": "depthwise"}}),
        (f"{NETWORK}.spec.kernel_size", 5),
        (f"{NETWORK}.widths", [16]),
        ("seed_everything", 1),
        ("threads", 2),
        ("trainer.max_epochs", 3),
        ("trainer.accelerator", "gpu"),
        ("data.init_args.batch_size", 64),
        ("data.init_args.augmentation", {"flip": True}),
        ("data.class_path", "unified_extractor.data.FashionMNIST"),
    ],
)
def test_what_decides_a_number_changes_the_hash(path: str, value: Any):
    assert config_hash(changed(path, value)) != config_hash(tiny_config())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.optimization", {"learning_rate": 0.01, "momentum": 0.9, "optimizer": "adamw"}),
        (f"{NETWORK}.drop_rate", 0),
        (f"{NETWORK}.spec.bias", False),
        (f"{NETWORK}.spec.offsets", {"kind": "none", "groups": 1}),
        ("model.network.class_path", "unified_extractor.models.extractor_net.ExtractorNet"),
        ("data.init_args.loading", {"num_workers": 3}),
        ("run", {"name": "another", "budget": "cpu"}),
        ("trainer.default_root_dir", "elsewhere"),
        ("trainer.limit_val_batches", None),
        ("trainer.max_steps", -1),
    ],
)
def test_defaults_places_and_modules_change_no_hash(path: str, value: Any):
    assert config_hash(changed(path, value)) == config_hash(tiny_config())


def test_repetitions_share_the_hash_without_a_seed():
    one, two = ({**tiny_config(), "seed_everything": seed} for seed in (0, 1))
    assert config_hash(one, seeded=False) == config_hash(two, seeded=False)
    assert config_hash(one, seeded=False) != config_hash(one)


def test_a_class_in_another_module_that_gets_an_option_with_a_default_keeps_its_hashes(monkeypatch: pytest.MonkeyPatch):
    class ExtractorNet(models.ExtractorNet):
        def __init__(self, *arguments: Any, gain: float = 1.0, **others: Any) -> None:
            super().__init__(*arguments, **others)

    monkeypatch.setitem(sys.modules, "unified_extractor.elsewhere", module := ModuleType("unified_extractor.elsewhere"))
    module.ExtractorNet = ExtractorNet  # type: ignore[attr-defined]
    elsewhere = changed("model.network.class_path", "unified_extractor.elsewhere.ExtractorNet")
    assert config_hash(elsewhere) == config_hash(tiny_config())
    elsewhere["model"]["network"]["init_args"]["gain"] = 1.0
    assert config_hash(elsewhere) == config_hash(tiny_config())
    elsewhere["model"]["network"]["init_args"]["gain"] = 2.0
    assert config_hash(elsewhere) != config_hash(tiny_config())
    foreign = [changed("model.network.class_path", f"{module}.ExtractorNet") for module in ("mine", "yours")]
    assert config_hash(foreign[0]) != config_hash(foreign[1]), "only this package's classes are known by their names alone"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Former:
    """Options before."""

    strength: float = 0.5
    kept: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Today:
    """The same options: one has another name, one another default."""

    power: float = 0.5
    kept: int = 2


class Network:
    """Takes either."""

    def __init__(self, former: Former = Former(), today: Today = Today()) -> None: ...


def test_a_renamed_option_and_a_changed_default_take_one_entry_each(monkeypatch: pytest.MonkeyPatch):
    def form(name: str, **options: Any) -> Any:
        network = {"class_path": f"{__name__}.Network", "init_args": {name: options}}
        return canonical_form({"model": {"network": network}})["model"]["network"].get(name)

    monkeypatch.setattr(names, "FIELDS", {"Today.strength": "power"})
    monkeypatch.setattr(names, "DEFAULTS", {"Today.kept": 1})
    assert form("former", strength=2, kept=1) == form("today", power=2, kept=1) == {"strength": 2.0}
    assert form("former", strength=0.5, kept=2) == form("today", power=0.5, kept=2) == {"kept": 2}
    assert form("former", strength=0.5, kept=1) == form("today", power=0.5, kept=1) is None


def test_renamed_values_of_a_renamed_option_keep_their_hash(tmp_path: Path):
    """``model.fused``, with null, true and false, has become ``model.kernel_memory``."""
    saved = tmp_path / "config.yaml"
    for former, today in ((None, "auto"), (True, "recompute"), (False, "store")):
        saved.write_text(yaml.safe_dump(changed("model.fused", former)))
        assert saved_config_hash(saved) == config_hash(changed("model.kernel_memory", today))
    assert config_hash(changed("model.kernel_memory", "auto")) == config_hash(changed())


def test_a_run_that_an_earlier_version_started_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its environment has a hash of the earlier kind, its configuration the former names."""
    monkeypatch.chdir(tmp_path)
    file = write_config(tmp_path, trainer__max_epochs=1)
    command = ["fit", "--config", str(file), "--ckpt_path=last"]
    assert main(command) == 0
    folder = Path("runs/tiny/version_0")
    (folder / "record.json").unlink()
    text = (folder / "environment.json").read_text()
    (folder / "environment.json").write_text(text.replace('"config_hash": "', '"config_hash": "0'))
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    dynamic_kernel = settings["model"]["network"]["init_args"]["spec"]["dynamic_kernel"]
    dynamic_kernel["normalisation"] = dynamic_kernel.pop("normalization")
    settings["model"]["fused"] = {"auto": None}[settings["model"].pop("kernel_memory")]
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    assert saved_config_hash(folder / "config.yaml") == config_hash(ParsedRun(command[1:]).settings)
    assert main(command) == 0
    assert (folder / "record.json").is_file()
    assert not Path("runs/tiny/version_1").exists()
    (folder / "record.json").unlink()
    assert main([*command, "--model.optimization.learning_rate=0.3"]) == 2, "another configuration is still refused"


def test_a_configuration_that_cannot_be_read_has_no_hash(tmp_path: Path):
    assert saved_config_hash(tmp_path / "config.yaml") is None
    for text in ("- 1", "a: [", "3"):
        (tmp_path / "config.yaml").write_text(text)
        assert saved_config_hash(tmp_path / "config.yaml") is None


def test_specs_in_a_checkpoint_may_have_former_names_and_lack_new_options():
    spec = ExtractorSpec(dynamic_kernel={"source": "generated", "groups": 1, "normalization": "softmax"})  # type: ignore[arg-type]
    network = models.ExtractorNet(num_classes=2, spec=spec, widths=[4], depths=[1])
    saved = copy.deepcopy(layer_specs(network))
    for own in saved.values():
        own["overlap_normalise"] = own.pop("overlap_normalize")
        own["dynamic_kernel"]["normalisation"] = own["dynamic_kernel"].pop("normalization")
        del own["bias"]
    check_checkpoint("a.ckpt", network, saved, network.state_dict())
    next(iter(saved.values()))["overlap_normalize"] = True
    with pytest.raises(ConfigurationError, match="written by another architecture"):
        check_checkpoint("a.ckpt", network, saved, network.state_dict())


def test_a_data_set_normalized_as_imagenet_keeps_the_hash_that_it_had_when_this_was_the_default():
    def form(**arguments: Any) -> dict[str, Any]:
        folder = {"class_path": "unified_extractor.data.ImageFolder", "init_args": {"root": "a/b", "image_size": 8, **arguments}}
        arguments = canonical_form({"data": folder})["data"]
        return {name: value for name, value in arguments.items() if name in ("mean", "std")}

    assert form(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]) == {}
    assert form(mean=None, std=None) == {"mean": None, "std": None}
