"""An object that is given as a whole replaces what was there, wherever it is given; single fields on top of it change it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.tiny_runs import write_config
from unified_extractor import ExtractorSpec, presets
from unified_extractor.__main__ import main
from unified_extractor.data.augmentation import Augmentation
from unified_extractor.named_specs import spec_from_text, spec_line, specs_line
from unified_extractor.spec import asdict_changed
from unified_extractor.training.cli.planned_run import ParsedRun
from unified_extractor.training.errors import ConfigurationError

pytestmark = pytest.mark.usefixtures("in_empty_folder")

SPEC = "--model.network.init_args.spec"
INVOLUTION = presets.involution(kernel_size=3, channels_per_group=4)


@pytest.fixture
def base(tmp_path: Path) -> str:
    """A run of ``unified`` with random crops; beside it files of other specs, augmentations and optimizers."""
    Path("involution.yaml").write_text(yaml.safe_dump(asdict_changed(INVOLUTION)))
    network = {"model": {"network": {"init_args": {"spec": "involution.yaml"}}}}
    Path("with_file.yaml").write_text(yaml.safe_dump(network))
    network["model"]["network"]["init_args"]["spec"] = asdict_changed(INVOLUTION)  # type: ignore[assignment]
    Path("with_mapping.yaml").write_text(yaml.safe_dump(network))
    network["model"]["network"]["init_args"]["spec"] = ["convolution", "involution.yaml"]  # type: ignore[assignment]
    Path("with_list.yaml").write_text(yaml.safe_dump(network))
    Path("erasing.yaml").write_text("erasing: 0.25")
    Path("wide.yaml").write_text("view: 3")
    Path("network.yaml").write_text(
        "class_path: unified_extractor.models.ExtractorNet\ninit_args: {num_classes: 10, in_chans: 1}"
    )
    Path("data.yaml").write_text("data: {init_args: {augmentation: erasing.yaml}}")
    Path("faster.yaml").write_text("model: {optimization: {learning_rate: 0.5}}")
    unified = asdict_changed(presets.unified(channels_per_group=4))
    return str(write_config(tmp_path, model__network__init_args__spec=unified, model__optimization__weight_decay=0.3))


def specs(*arguments: str) -> list[ExtractorSpec]:
    """The specs that a run with these arguments would have."""
    given: Any = ParsedRun(arguments).settings.model.network.init_args.spec
    return [ExtractorSpec(**plain(one)) for one in (given if isinstance(given, list) else [given])]


def plain(settings: Any) -> dict[str, Any]:
    mapping = settings if isinstance(settings, dict) else settings.as_dict()
    return {key: plain(value) if isinstance(value, dict) else value for key, value in mapping.items() if not key.startswith("__")}


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "given",
    [
        [SPEC, "involution.yaml"],
        ["--model.network.spec=involution.yaml"],
        [SPEC, "involution(kernel_size=3, channels_per_group=4)"],
        [SPEC, "involution", f"{SPEC}.kernel_size=3", f"{SPEC}.dynamic_kernel.channels_per_group=4"],
        [SPEC, str(asdict_changed(INVOLUTION))],
        ["--config", "with_file.yaml"],
        ["--config", "with_mapping.yaml"],
        ["--config", "with_list.yaml", "--config", "with_mapping.yaml"],
        [f"{SPEC}.kernel_size=5", SPEC, "involution.yaml"],
    ],
    ids=["file", "short", "call", "name and fields", "mapping", "config with file", "config", "over a list", "over fields"],
)
def test_a_spec_replaces_the_spec_of_the_configuration(base: str, given: list[str]):
    assert specs("--config", base, *given) == [INVOLUTION]


def test_a_list_of_specs_takes_names_and_files_and_replaces_too(base: str):
    for given in (["--config", "with_list.yaml"], [SPEC, "[convolution, involution.yaml]"]):
        assert specs("--config", base, *given) == [presets.convolution(), INVOLUTION]


@pytest.mark.parametrize(
    "given", [[SPEC, "{dynamic_kernel: kernel.yaml}"], ["--config", "with_kernel.yaml"]], ids=["text", "config"]
)
def test_a_file_in_a_spec_is_read_every_time(base: str, given: list[str]):
    network = {"model": {"network": {"init_args": {"spec": {"dynamic_kernel": "kernel.yaml"}}}}}
    Path("with_kernel.yaml").write_text(yaml.safe_dump(network))
    for channels in (2, 4):
        Path("kernel.yaml").write_text(f"{{source: generated, channels_per_group: {channels}}}")
        (spec,) = specs("--config", base, *given)
        assert spec.dynamic_kernel.channels_per_group == channels


def test_fields_change_a_spec_and_objects_inside_it_are_whole(base: str):
    (wider,) = specs("--config", base, f"{SPEC}.generator.view=5")
    assert wider == presets.unified(channels_per_group=4, view=5)
    for value in ("wide.yaml", "{view: 3}"):
        (bare,) = specs("--config", base, f"{SPEC}.generator={value}")
        assert asdict_changed(bare.generator) == {"view": 3}
        assert bare.offsets == wider.offsets


def test_objects_in_a_file_replace_and_configurations_add_up(base: str):
    for given in (["--data.augmentation=erasing.yaml"], ["--config=data.yaml"], ["--data.augmentation", "{erasing: 0.25}"]):
        augmentation = ParsedRun(["--config", base, *given]).settings.data.init_args.augmentation
        assert Augmentation(**plain(augmentation)) == Augmentation(erasing=0.25)
    assert (
        ParsedRun(["--config", base, "--data.augmentation.erasing=0.25"]).settings.data.init_args.augmentation.crop_padding == 1
    )
    network = ParsedRun(["--config", base, "--model.network=network.yaml"]).settings.model.network.init_args
    assert (network.spec, network.widths) == (None, [32, 64, 128])
    optimization = ParsedRun(["--config", base, "--config=faster.yaml"]).settings.model.optimization
    assert (optimization.learning_rate, optimization.weight_decay) == (0.5, 0.3), "a configuration adds to those before it"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("involutoin", "neither a file nor a preset: involutoin, did you mean involution?"),
        ("involution(kernel=3)", "involution has no option 'kernel', did you mean kernel_size?"),
        ("involution(kernel_size=0)", "kernel_size must be at least 1, got 0"),
        ("deformable_convolution", "deformable_convolution needs version, for example deformable_convolution(version=2)"),
        ("involution(__import__('os'))", "must be the name of a preset, or its call"),
    ],
)
def test_a_wrong_name_is_refused(base: str, given: str, reason: str):
    with pytest.raises(ConfigurationError) as refused:
        ParsedRun(["--config", base, SPEC, given])
    assert str(refused.value).startswith(f"model.network.init_args.spec: {reason}")


def test_a_run_says_which_extractor_it_trains(base: str, capsys: pytest.CaptureFixture[str]):
    assert main(["fit", "--config", base, SPEC, "involution.yaml", "--trainer.max_epochs=1"]) == 0
    assert (
        "\nextractor: involution with kernel_size=3 (preset: 7), dynamic_kernel.channels_per_group=4 (preset: 16)\n"
        in capsys.readouterr().out
    )


def test_the_nearest_preset_of_every_preset_is_itself():
    for text in ("involution", "unified", "deformable_convolution(version=3)", "outlook_attention"):
        assert spec_line(spec_from_text(text)) == text
    assert spec_line(presets.outlook_attention(heads=4)) == "outlook_attention with dynamic_kernel.groups=4 (preset: 1)"
    three = [presets.convolution(), presets.involution(), presets.involution()]
    assert specs_line(three) == "1: convolution; 2-3: involution"
    assert specs_line(three[1:]) == "involution"
