"""A checkpoint knows the classes and the normalization of its network: they are never looked up in some folder again."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import unified_extractor as ux
from tests.support.image_folders import write_images
from tests.support.tiny_runs import tiny_config
from unified_extractor.data import Digits
from unified_extractor.training import ImageClassifier
from unified_extractor.training.cli.training_cli import main
from unified_extractor.training.run.checkpoint_task import give_task
from unified_extractor.training.run.finished_run import load_run

pytestmark = pytest.mark.usefixtures("in_empty_folder")
BEST = "runs/run/version_0/checkpoints/best.ckpt"


def shaded(root: Path, classes: dict[str, int], *, count: int = 10) -> Path:
    """An image folder whose classes differ in brightness."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for name, level in classes.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = (level + random.integers(-20, 20, (8, 8, 3))).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two classes, ``a/train/{cat,dog}``."""
    folder = tmp_path_factory.mktemp("trained")
    shaded(folder / "a", {"cat": 60, "dog": 180})
    settings = tiny_config()
    settings["data"] = {
        "class_path": "unified_extractor.data.ImageFolder",
        "init_args": {"root": "a", "image_size": 8, "batch_size": 6},
    }
    settings["model"]["network"]["init_args"].update(num_classes=2, in_chans=3)
    settings["model"]["optimization"]["learning_rate"] = 0.05
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("run.yaml").write_text(yaml.safe_dump(settings))
        assert main(["fit", "--config", "run.yaml", "--trainer.max_epochs=8"]) == 0
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path) -> Path:
    """The current folder, with a copy of the run; the data it was trained on are gone."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    (tmp_path / "a").rename(tmp_path / "gone")
    return tmp_path


def run(command: str, *arguments: str) -> int:
    return main([command, "--config", "run.yaml", f"--ckpt_path={BEST}", *arguments])


def rows(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    return list(csv.DictReader(capsys.readouterr().out.splitlines()))


def test_a_run_says_what_it_reads(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    shutil.rmtree("runs")
    capsys.readouterr()
    assert main(["fit", "--config", "run.yaml", "--trainer.max_epochs=1", "--data.augmentation.flip=true"]) == 0
    printed = capsys.readouterr().out
    assert "a: 18 training, 2 validation, 20 test images, 2 classes; no folder of validation images" in printed
    assert "8x8 RGB, mean 0.4" in printed
    assert "augmentation: flip=True" in printed
    assert run("test") == 0
    assert "a: 20 test images, 2 classes\n" in capsys.readouterr().out


@pytest.mark.sampled(2)
@pytest.mark.parametrize("command", ["test", "validate"])
@pytest.mark.parametrize(
    ("classes", "there"),
    [
        ({"apple": 60, "banana": 180}, "apple, banana"),
        ({"cat": 60, "hound": 180}, "cat, hound"),
        ({"ape": 9, "cat": 60, "dog": 180}, "ape, cat, dog"),
    ],
)
def test_other_classes_than_the_checkpoint_s_are_refused_with_both_lists(
    here: Path, capsys: pytest.CaptureFixture[str], command: str, classes: dict[str, int], there: str
):
    shaded(here / "b", classes)
    assert run(command, "--data.root=b") == 2
    printed = capsys.readouterr().err
    assert printed == (
        f"uniex: error: ckpt_path: {BEST} was trained on other classes than those of b: [cat, dog] there, [{there}] here\n"
    )


class Permuted(Digits):
    """Digits whose labels have other names."""

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple("1023456789")


def test_permuted_classes_are_refused(capsys: pytest.CaptureFixture[str]):
    settings = tiny_config()
    settings["trainer"]["max_epochs"] = 1
    Path("run.yaml").write_text(yaml.safe_dump(settings))
    assert main(["fit", "--config", "run.yaml"]) == 0
    assert run("test") == 0
    capsys.readouterr()
    assert run("test", f"--data={Permuted.__module__}.Permuted") == 2
    assert "those of digits, in another order: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] there, [1, 0, 2, 3" in capsys.readouterr().err


def test_a_test_elsewhere_normalizes_as_the_training_did(here: Path, capsys: pytest.CaptureFixture[str]):
    assert run("test", "--data.root=gone") == 0
    at_home = capsys.readouterr().out
    shaded(here / "b", {"cat": 60, "dog": 61})
    shutil.rmtree("b/train")
    shutil.rmtree("b/test/dog")
    shutil.copytree("gone/test/dog", "b/test/dog")
    shutil.rmtree("b/test/cat")
    shutil.copytree("gone/test/cat", "b/test/cat")
    assert run("test", "--data.root=b") == 0
    assert capsys.readouterr().out.replace("b:", "gone:") == at_home
    assert run("test", "--data.root=b", "--data.mean=[0.5,0.5,0.5]", "--data.std=[1,1,1]") == 2
    assert "data.init_args.mean: " in (line := capsys.readouterr().err)
    assert "the network was trained with mean [0.4" in line
    assert "got mean [0.5, 0.5, 0.5]" in line


def test_predict_needs_no_training_folder_and_takes_files_and_folders(here: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree("gone/test/dog", "new")
    shutil.copy("gone/test/cat/3.png", "kitten")
    Path("new/.hidden.png").write_bytes(b"")
    capsys.readouterr()
    assert run("predict", "--data.predict_folder=[kitten, new]") == 0
    printed = capsys.readouterr()
    assert printed.err == "11 images; left out: hidden files (1)\n"
    found = list(csv.DictReader(printed.out.splitlines()))
    assert [row["file"] for row in found] == ["kitten", *(f"new/{number}.png" for number in range(10))]
    assert [row["class"] for row in found] == ["cat", *["dog"] * 10]
    for place in ("new/0.png", "new"):
        assert run("predict", f"--data.predict_folder={place}") == 0
        assert rows(capsys) == [row for row in found if row["file"].startswith(place)]


def test_predict_goes_on_past_unreadable_images(here: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree("gone/test/dog", "new")
    expected = run("predict", "--data.predict_folder=new"), rows(capsys)
    assert expected[0] == 0
    good = Path("new/1.png").read_bytes()
    for name, content in (("1.png", good[:60]), ("4.png", b""), ("9.png", b"<html>")):
        Path("new", name).write_bytes(content)
    for workers in (0, 1):
        assert run("predict", "--data.predict_folder=new", f"--data.loading.num_workers={workers}") == 1
        printed = capsys.readouterr()
        found = list(csv.DictReader(printed.out.splitlines()))
        for number, (row, before) in enumerate(zip(found, expected[1], strict=True)):
            if number not in (1, 4, 9):
                assert row == before
            else:
                assert (row["class"], row["probability"]) == ("", "")
                assert row["error"].startswith("not a readable image (")
                assert f"uniex: new/{number}.png: {row['error']}\n" in printed.err
        assert printed.err.count("\n") == 3


def test_predict_lists_the_likeliest_classes(here: Path, capsys: pytest.CaptureFixture[str]):
    one = "--data.predict_folder=gone/test/cat/0.png"
    assert run("predict", one, "--top_k=2") == 0
    (row,) = rows(capsys)
    assert list(row) == ["file", "class", "probability", "class_2", "probability_2", "error"]
    assert (row["class"], row["class_2"]) == ("cat", "dog")
    assert float(row["probability"]) + float(row["probability_2"]) == pytest.approx(1, abs=2e-4)
    for wrong, message in (
        ("3", "top_k: must not exceed the number of classes, 2, got 3"),
        ("0", "top_k: must be at least 1, got 0"),
    ):
        assert run("predict", one, f"--top_k={wrong}") == 2
        assert message in capsys.readouterr().err


def test_rows_are_written_batch_by_batch(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    write_images(here / "new", 4)
    seen: list[int] = []
    step = "unified_extractor.training.classifier.ImageClassifier.predict_step"
    original = __import__("unified_extractor.training.classifier", fromlist=["x"]).ImageClassifier.predict_step

    def counting(self: Any, batch: Any, batch_idx: int) -> Any:
        seen.append(capsys.readouterr().out.count("\n"))
        return original(self, batch, batch_idx)

    monkeypatch.setattr(step, counting)
    assert run("predict", "--data.predict_folder=new", "--data.batch_size=2") == 0
    assert seen == [1, 2]


def test_a_checkpoint_of_an_earlier_version_takes_the_names_of_the_data(here: Path, capsys: pytest.CaptureFixture[str]):
    content = torch.load(BEST, weights_only=True)
    assert content.pop("task")["class_names"] == ["cat", "dog"]
    torch.save(content, BEST)
    assert run("predict", "--data.root=gone", "--data.predict_folder=gone/test/dog/0.png") == 0
    printed = capsys.readouterr()
    assert next(csv.DictReader(printed.out.splitlines()))["class"] == "dog"
    assert printed.err == "uniex: the checkpoint has no names of classes, so they are those of the training data\n"


def test_a_start_from_weights_of_as_many_other_classes_says_so(here: Path):
    network, _ = load_run(Path("runs/run/version_0"))
    notes = {names: ImageClassifier(network, initial_weights=BEST).start(names) for names in [("cat", "dog"), ("dog", "cat")]}
    assert notes == {
        ("cat", "dog"): [],
        ("dog", "cat"): [
            "the classifier is kept, and was trained on other classes, in another order: [cat, dog] there, [dog, cat] here"
        ],
    }


def test_a_saved_network_keeps_the_task(here: Path):
    network, data = load_run(Path("runs/run/version_0"))
    assert isinstance(network, ux.models.StagedNetwork)
    assert network.task is not None
    assert network.task.class_names == ("cat", "dog")
    assert tuple(data.mean) == network.task.mean
    ux.interop.save(network, "saved")
    assert json.loads(Path("saved/config.json").read_text())["task"]["class_names"] == ["cat", "dog"]
    assert ux.interop.load("saved").task == network.task
    foreign = torch.nn.Conv2d(1, 1, 1)
    foreign.task = "detect"  # type: ignore[assignment]
    give_task(foreign, network.task)
    assert foreign.task == "detect"
    network.reset_classifier(3)
    assert network.task is None
