"""Recipes come with the package, and are used and copied by name from any folder."""

from pathlib import Path

import pytest
import yaml

from tests.support.image_folders import image_folder
from tests.support.refusals import refused
from unified_extractor import presets
from unified_extractor.__main__ import main
from unified_extractor.commands.demo import demo
from unified_extractor.commands.describe import read_spec
from unified_extractor.recipes import FOLDER, about, as_file, copy_recipe, recipe_names
from unified_extractor.sweeps.grid import read_grid
from unified_extractor.training.run.folder import release_locks

pytestmark = pytest.mark.usefixtures("in_empty_folder")
RUNS = [name for name in recipe_names() if not name.startswith("sweeps/")]


def parsed(capsys, config, *options):
    """Return the configuration that a command line gives, without its comments."""
    capsys.readouterr()
    assert main(["fit", "--config", config, *options, "--print_config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_the_recipes_are_listed_with_a_line_each(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    assert "extractor/involution" not in recipe_names()
    assert {"digits/unified", "imagenet/rednet50", "sweeps/digits"} <= set(recipe_names())
    for line, name in zip(lines, recipe_names(), strict=True):
        assert line.endswith(about(name))
        assert about(name)[0].isupper()


def test_a_recipe_is_named_by_its_name_or_its_file_and_a_file_of_the_name_counts_more(tmp_path):
    file = FOLDER / "digits" / "unified.yaml"
    assert as_file("digits/unified") == as_file("configs/digits/unified.yaml") == as_file("digits/unified.yaml") == file
    assert as_file("configs/camvid/classes.csv") == FOLDER / "camvid" / "classes.csv"
    for other in ("digits/unifed", "mine.yaml", "../extras.py", "digits"):
        assert as_file(other) == Path(other)
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "unified").write_text("mine")
    assert as_file("digits/unified") == Path("digits/unified")


def test_a_run_is_configured_by_a_recipe_and_a_preset_by_name(capsys):
    named = parsed(capsys, "digits/unified", "--model.network.init_args.spec=involution(kernel_size=5)")
    assert named["run"]["name"] == "digits/unified"
    assert named["model"]["network"]["init_args"]["spec"]["kernel_size"] == 5
    assert parsed(capsys, "configs/digits/unified.yaml", "-c=digits/unified") == parsed(capsys, "digits/unified")
    message = refused(capsys, "fit", "--config", "digits/unifed")
    assert "digits/unifed: No such file or directory, did you mean digits/unified?" in message
    assert "uniex recipes lists those" in refused(capsys, "fit", "--config", "x")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", RUNS)
def test_a_copy_configures_the_same_run_from_another_folder(name, capsys):
    files = copy_recipe(name, "copies/mine.yaml")
    text = files[0].read_text()
    assert "# Command: uniex fit --config copies/mine.yaml" in text
    assert "extractor/" not in text
    here, there = (parsed(capsys, config) for config in ("copies/mine.yaml", name))
    if name == "camvid/unified":
        assert here["data"]["init_args"].pop("classes") == "copies/classes.csv"
        assert there["data"]["init_args"].pop("classes") == "configs/camvid/classes.csv"
        assert files[1].read_text() == as_file("configs/camvid/classes.csv").read_text()
    assert here == there


def test_a_copy_overwrites_nothing_and_goes_into_a_folder(capsys):
    assert main(["recipes", "copy", "digits/unified", "new/folder"]) == 0
    assert "written: new/folder/unified.yaml" in capsys.readouterr().out
    assert "new/folder/unified.yaml is there already" in refused(capsys, "recipes", "copy", "digits/unified", "new/folder")
    assert "no recipe 'digits/unifid', did you mean digits/unified?" in refused(capsys, "recipes", "copy", "digits/unifid", ".")


def test_a_sweep_is_a_recipe_and_starts_from_one():
    for grid in (as_file("sweeps/digits"), copy_recipe("sweeps/digits", ".")[0]):
        assert read_grid(grid).config == [str(FOLDER / "digits" / "involution.yaml")]


def test_describe_takes_a_call_of_a_preset_and_a_recipe():
    assert read_spec("involution(kernel_size=3)") == presets.involution(3)
    assert read_spec("digits/unified") == presets.unified()
    assert read_spec("image_folder/unified", ["kernel_size=5"]).kernel_size == 5


def test_a_recipe_trains_on_images_of_another_folder(tmp_path):
    image_folder(tmp_path / "mine", classes=("cat", "dog"), train=15)
    options = [
        "--data.root",
        "mine",
        "--data.batch_size=8",
        "--model.network.num_classes=2",
        "--trainer.fast_dev_run=true",
        "--trainer.accelerator=cpu",
    ]
    assert main(["fit", "--config", "image_folder/unified", *options]) == 0


def test_the_demo_trains_reports_and_draws_and_overwrites_nothing(capsys):
    (Path("first") / "1").mkdir(parents=True)
    quick = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.enable_progress_bar=false"]
    try:
        assert demo(Path("first"), ("involution", "unified"), quick) == 0
    finally:
        release_locks()
    assert (Path("first") / "2" / "windows.png").stat().st_size > 10_000
    table = capsys.readouterr().out
    assert "involution" in table
    assert "test accuracy" in table
    assert not list((Path("first") / "1").iterdir())
