"""``uniex bench train``: every path of the data is timed beside the step, the files say what was measured."""

import json
from pathlib import Path

import pytest

from unified_extractor.__main__ import main
from unified_extractor.benchmarks.training_input import CASES, PATHS, RandomImages, markdown
from unified_extractor.data.device_loader import DeviceLoader


def test_bench_train_writes_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    output = tmp_path / "train.json"
    assert main(["bench", "train", "--only", "digits", "--repeats", "3", "--threads", "1", "--output", str(output)]) == 0
    result = json.loads(output.read_text())
    (case,) = result["cases"]
    times = case["milliseconds"]
    assert set(times) == {"step", *(f"{what} {path}" for what in ("input", "both") for path in PATHS)}
    assert all(0 < values["p20"] <= values["median"] <= values["p80"] for values in times.values())
    assert times["both on the device"]["median"] > times["input on the device"]["median"]
    table = output.with_suffix(".md").read_text()
    assert table in capsys.readouterr().out
    share = times["input on the device"]["median"] / times["step"]["median"]
    assert f"{share:.1%}" in table


def test_one_measurement_has_no_spread(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(["bench", "train", "--repeats", "1"])
    assert stop.value.code == 2
    assert "--repeats must be at least 2" in capsys.readouterr().err


def test_committed_figures_are_those_of_the_committed_measurement():
    folder = Path(__file__).parents[2] / "benchmarks"
    result = json.loads((folder / "train.json").read_text())
    assert [case["name"] for case in result["cases"]] == list(CASES)
    assert markdown(result) == (folder / "train.md").read_text()
    smallest = result["cases"][0]["milliseconds"]
    assert smallest["input on the device"]["median"] < 0.1 * smallest["step"]["median"]


def test_random_images_are_held_on_the_device():
    data = RandomImages(16)
    assert isinstance(data.train_dataloader(), DeviceLoader)
    assert [len(data.images(split)) for split in ("train", "val")] == [45_000, 5_000]  # type: ignore[arg-type]
