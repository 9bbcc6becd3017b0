"""Experiments: every variant can be had at the protocol's cost, rows are of one cost, and a whole experiment runs."""

import argparse
import csv
import importlib
import itertools
import json
import math
import re
import shutil
import sys
import time
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.support.rows import row
from unified_extractor.data.errors import DataError
from unified_extractor.models.matched_net import TOLERANCE, MatchedNet
from unified_extractor.named_specs import as_spec
from unified_extractor.options import imported
from unified_extractor.results.correct_images import unpacked
from unified_extractor.results.effects import factorial
from unified_extractor.results.record import FORMER_HASHES, read_rows, write_rows
from unified_extractor.results.switches import read_switches
from unified_extractor.spec import ExtractorSpec
from unified_extractor.sweeps.grid import Grid, points, read_grid
from unified_extractor.training.run.settings_hash import config_hash

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
GRIDS = sorted(EXPERIMENTS.glob("*/*.yaml"))
GRIDS = [path for path in GRIDS if path.parent.name != "protocol" and path.name != "switches.yaml"]
ROWS = sorted(path for path in EXPERIMENTS.glob("*/results/*.jsonl") if path.parts[-3] != "00_first_look")
NETWORK = "model.network.init_args."


def spec_of(value, folder):
    """Return the spec, or one a stage, of a grid's option."""
    if isinstance(value, list):
        return [spec_of(one, folder) for one in value]
    return as_spec(value)


@cache
def trained_specs():
    """Return the specs of every row, with the fields of today: the costs of these networks are in the rows."""
    found = {json.dumps(one.specs): one.specs for file in ROWS for one in read_rows([file])}
    return [[asdict(ExtractorSpec(**spec)) for spec in specs] for specs in found.values()]


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_variant_can_be_had_at_the_protocols_cost(path, monkeypatch):
    monkeypatch.chdir(EXPERIMENTS.parent)
    protocol = yaml.safe_load((EXPERIMENTS / "protocol" / "network.yaml").read_text())["model"]["network"]["init_args"]
    grid = read_grid(path)
    for name, options in grid.variants.items():
        frame = together(*(yaml.safe_load(Path(grid.config[which]).read_text()) for which in (0, 2)))["model"]["network"]
        given = {**grid.options, **options}
        network = frame["init_args"] | {
            option.removeprefix(NETWORK): value for option, value in given.items() if option.startswith(NETWORK)
        }
        if "backbone" in network:
            frame = network["backbone"]
            network = frame["init_args"]
        spec = spec_of(network["spec"], path.parent)
        specs = [asdict(one) for one in (spec if isinstance(spec, list) else [spec] * 3)]
        if specs in trained_specs() and network | {"spec": None} == protocol | {"spec": None}:
            continue
        with torch.device("meta"):
            made = imported(frame["class_path"])(**network | {"spec": spec})
        if not isinstance(made, MatchedNet):
            continue  # a published network at its own cost
        assert min(made.hidden) >= 1, name
        if (largest := network.get("max_mlp_ratio")) is not None:
            assert all(hidden <= largest * width for hidden, width in zip(made.hidden, network["widths"], strict=True)), name


@pytest.mark.parametrize("path", ROWS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_rows_of_a_file_are_of_one_cost_and_one_data_set(path):
    rows = read_rows([path])
    assert len({(row.dataset, row.budget, row.train_images, row.epochs, row.batch_size) for row in rows}) == 1
    if rows[0].network.rpartition(".")[2] in ("CIFARResNet", "FastNet"):
        return  # published networks keep their widths, and have costs of their own
    sizes = {row.variant.split(" ")[0].partition("@")[2] for row in rows}
    for size, figure in itertools.product(sizes, ("parameters", "multiply_adds")):
        values = [getattr(row, figure) for row in rows if row.variant.split(" ")[0].partition("@")[2] == size]
        assert max(values) <= (1 + TOLERANCE) / (1 - TOLERANCE) * min(values)


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*/switches.yaml")), ids=lambda path: path.parent.name)
def test_switches_are_those_of_a_factorial_of_a_grid(path, monkeypatch):
    monkeypatch.chdir(EXPERIMENTS.parent)
    switches, designs = read_switches(path), []
    for grid in (read_grid(file) for file in GRIDS if file.parent == path.parent):
        specs = {name: spec_of(options[f"{NETWORK}spec"], path.parent) for name, options in grid.variants.items()}
        every = {name: own if isinstance(own, list) else [own] for name, own in specs.items()}
        cells = [row(name, specs=[asdict(spec) for spec in own]) for name, own in every.items()]
        designs.append(factorial(cells, switches))
    largest = max(designs, key=len)
    assert set(largest) == {"variant", "seed", *(switch.name for switch in switches)}
    assert len(largest) >= 2 ** (len(switches) - 1)
    assert all(largest[switch.name].mean() == 0.5 for switch in switches)


QUESTION = re.compile(r"(?P<budget>\w+)-(?P<data>[a-z0-9_]+?)(-on_(?P<accelerator>\w+?))?(-rates)?")
"""The parts of a row's question beside the name of its grid."""


def merged(grid, point):
    """Return the configuration of a cell as its files say it, not yet resolved."""
    config = {}
    for file in grid.config:
        config = together(config, read_yaml(EXPERIMENTS.parent / file))
    for option, value in sorted(point.options.items(), key=lambda item: item[0].count(".")):
        if isinstance(value, str) and value.endswith(".yaml"):
            value = read_yaml(EXPERIMENTS.parent / value)
        for part in reversed(option.split(".")):
            value = {part: value}
        config = together(config, value)
    return config | {"seed_everything": point.seed}


def together(one, other):
    """Return one mapping with the values of the other, nested; a spec is replaced whole."""
    both = one | other
    for key in one.keys() & other.keys() - {"spec"}:
        if isinstance(one[key], dict) and isinstance(other[key], dict):
            both[key] = together(one[key], other[key])
    return both


@cache
def grids_by_name():
    """Return every grid of the experiments by its name."""
    return {grid.name: grid for grid in map(read_grid, GRIDS)}


@cache
def read_yaml(file):
    """Return what a file holds, which nobody changes."""
    return yaml.safe_load(Path(file).read_text())


def grid_of(path, question, grids):
    """Return the name of the grid that a row was run for, and the grid that states it today: the one after which the file is named."""
    name = max((name for name in grids if question.startswith(name)), key=len)
    named = [file for file in GRIDS if file.parent == path.parents[1] and path.stem.startswith(f"{file.stem}-")]
    return name, read_grid(*named) if named else grids[name]


def hashes_of_cells(run, file):
    """Yield the hash of the cell to which each row of a file belongs; finals are at the rates that the rows choose."""
    grids = grids_by_name()
    rates = {}
    for one in read_rows([file]):
        name, grid = grid_of(file, one.question, grids)
        given = QUESTION.fullmatch(one.question.removeprefix(name).strip("/"))
        experiment, *own_name = name.split("/")
        if given:
            options = argparse.Namespace(data=given["data"], accelerator=given["accelerator"], root=None)
            grid = run.at_budget(grid, given["budget"], options)
            path = (
                EXPERIMENTS
                / experiment
                / "results"
                / ("-".join([*own_name, run.title(given["budget"], options)]) + "-rates.jsonl")
            )
        variant, _, rate = one.variant.partition(" learning_rate=")
        if given and not rate and run.LEARNING_RATE not in grid.variants[variant]:  # whose options state it
            if path not in rates:
                rates[path] = run.chosen_rates(run.accuracies(grid, path))
            rate = rates[path][variant]
        own = grid.variants[variant] | ({run.LEARNING_RATE: float(rate)} if rate else {})
        (point,) = points(replace(grid, variants={variant: own}, settings={}, seeds=[one.seed]))
        yield config_hash(merged(grid, point))


@pytest.mark.parametrize("path", ROWS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_every_committed_row_is_that_of_a_cell_of_today(path, monkeypatch):
    """Under today's hash; the file itself keeps the hash that the run had."""
    monkeypatch.chdir(EXPERIMENTS.parent)
    monkeypatch.syspath_prepend(EXPERIMENTS)
    rows = read_rows([path])
    assert list(hashes_of_cells(importlib.import_module("run"), path)) == [one.config_hash for one in rows]
    former = {line["former_hash"] for line in csv.DictReader((EXPERIMENTS / FORMER_HASHES).open())}
    for line, one in zip(path.read_text().splitlines(), rows, strict=True):
        kept = json.loads(line)
        for field in ("config_hash", "settings_hash"):
            assert kept[field] in former or kept[field] == getattr(one, field)


def test_grids_of_finished_experiments_state_every_option_that_their_rows_have():
    """Not the defaults of a spec or a preset, which may change, decide what a finished variant was."""
    grids = grids_by_name()
    for path in ROWS:
        for line in path.read_text().splitlines():
            one = json.loads(line)
            _, grid = grid_of(path, one["question"], grids)
            spec = grid.variants[one["variant"].partition(" learning_rate=")[0]][f"{NETWORK}spec"]
            assert (spec if isinstance(spec, list) else [spec] * len(one["specs"])) == one["specs"], one["name"]


def test_a_dry_run_of_a_finished_experiment_finds_every_cell_finished_and_needs_no_images(monkeypatch, capsys):
    monkeypatch.chdir(EXPERIMENTS.parent)
    monkeypatch.syspath_prepend(EXPERIMENTS)
    run = importlib.import_module("run")
    monkeypatch.setattr(sys, "argv", ["run.py", "03_position", "--root", "nowhere", "--dry_run"])
    assert run.main() == 0
    printed = capsys.readouterr().out
    assert re.findall(r"\d+ cells, \d+ finished", printed) == ["6 cells, 6 finished", "9 cells, 9 finished"]
    assert "│ new" not in printed


def test_the_committed_table_of_large_kernels_is_that_of_the_committed_measurement(monkeypatch):
    folder = EXPERIMENTS / "07_large_kernels"
    monkeypatch.syspath_prepend(folder)
    measure = importlib.import_module("measure")
    for path in sorted((folder / "results").glob("*.json")):
        result = json.loads(path.read_text())
        assert measure.table(result) == path.with_suffix(".md").read_text()
        assert {(row["layer"], row["kernel_size"]) for row in result["rows"]} == {
            (n, k) for n in measure.SPECS for k in measure.SIZES
        }


def test_learning_rates_are_tried_until_the_best_is_no_end_of_the_list(tmp_path, monkeypatch):
    """Sweeps whose runs are the best at a known rate, and of a variant whose runs all fail."""
    monkeypatch.syspath_prepend(EXPERIMENTS)
    run = importlib.import_module("run")
    optima, tried = {"low": 0.0007, "middle": 0.003, "high": 1.0}, []

    def sweep(grid, rows):
        made = {one.variant: one for one in (read_rows([rows]) if rows.exists() else [])}
        for variant, rate in itertools.product(grid.variants, grid.settings[run.LEARNING_RATE]):
            tried.append((variant, rate))
            label = f"{variant} learning_rate={rate}"
            if variant in optima:
                made[label] = row(label, val_accuracy=1 / (1 + abs(math.log(rate / optima[variant]))))
        rows.unlink(missing_ok=True)
        write_rows(rows, made.values())

    network = [str(EXPERIMENTS / "protocol" / "network.yaml")]
    grid = Grid(name="x", config=network, variants={name: {} for name in (*optima, "failing")}, seeds=[0])
    found = run.choose_rates(grid, tmp_path / "rates.jsonl", sweep)
    assert found == {"low": 0.000625, "middle": 0.0025, "high": 0.04}
    assert ("low", 0.0003125) in tried
    assert ("middle", 0.00125) in tried
    assert run.best({0.1: [0.5], 0.2: [0.5]}) == 0.1, "of equals the smaller"
    two = Grid(name="x", config=network, variants={"low": {}}, seeds=[0, 1])
    kept = [
        row("low learning_rate=0.000625", seed=0, val_accuracy=0.5),
        row("low learning_rate=0.00125", seed=0, val_accuracy=0.4),
    ]
    write_rows(tmp_path / "stopped.jsonl", [*kept, row("low learning_rate=0.00125", seed=1, val_accuracy=0.4)])
    assert run.rates_without_a_seed(two, tmp_path / "stopped.jsonl") == {"low": [0.000625]}
    tried.clear()
    run.choose_rates(two, tmp_path / "stopped.jsonl", sweep, dry_run=True)
    assert ("low", 0.000625) in tried, "a rate at which a run was stopped between two seeds is gone on with"
    stated = Grid(name="x", config=[], variants={"own": {run.LEARNING_RATE: 0.3}}, seeds=[0])
    assert run.choose_rates(stated, tmp_path / "none.jsonl", sweep) == {"own": 0.3}, (
        "a rate that a variant states is not searched"
    )


def test_of_learning_rates_within_noise_the_middle_one_is_chosen(monkeypatch):
    """Pooled variance by hand: (0.02**2 + 0.02**2) / 2 / 5 cells, so a standard error of 0.02 / sqrt(5) = 0.0089 for two means of two."""
    monkeypatch.syspath_prepend(EXPERIMENTS)
    run = importlib.import_module("run")
    tied = {0.1: [0.50, 0.50], 0.2: [0.49, 0.51], 0.4: [0.505, 0.505]}
    found = {"tied": tied, "clear": {0.1: [0.40, 0.42], 0.2: [0.50, 0.50]}}
    assert run.chosen_rates(found) == {"tied": 0.2, "clear": 0.2}
    assert run.chosen_rates({"one_seed": {0.1: [0.5], 0.2: [0.51]}}) == {"one_seed": 0.2}, "no noise is known: the best"
    assert run.chosen_rates({"tied": {0.1: [0.49, 0.51], 0.2: [0.50, 0.51]}}) == {"tied": 0.1}, "of two the smaller"
    assert run.rate_seeds("experiments/06_sharing") == [0]
    assert len(run.rate_seeds("09_controls")) == 2


def test_a_part_of_a_grid_gets_the_rates_that_the_whole_grid_gives_it(tmp_path, monkeypatch):
    """The steady variant's rates are tied by the noise of the other one alone."""
    monkeypatch.syspath_prepend(EXPERIMENTS)
    run = importlib.import_module("run")
    whole = {"steady": {}, "noisy": {}}
    values = {"steady": {0.0025: (0.5, 0.5), 0.005: (0.505, 0.505)}, "noisy": {0.0025: (0.3, 0.5), 0.005: (0.1, 0.3)}}
    rows = [
        row(f"{variant} learning_rate={rate}", seed, val_accuracy=value)
        for variant, rates in values.items()
        for rate, own in rates.items()
        for seed, value in enumerate(own)
    ]
    write_rows(tmp_path / "rates.jsonl", rows)
    part = Grid(name="x", config=[str(EXPERIMENTS / "protocol" / "network.yaml")], variants={"steady": {}}, seeds=[0, 1])
    found = run.choose_rates(part, tmp_path / "rates.jsonl", lambda *_, **__: 0, others=whole)
    assert found == {"steady": run.chosen_rates(values)["steady"]} == {"steady": 0.0025}


@pytest.mark.usefixtures("cells_in_process")
def test_a_whole_experiment_runs_and_only_a_new_variant_the_second_time(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    run, latency = (importlib.import_module(name) for name in ("run", "latency"))
    folder = tmp_path / "99_question"
    folder.mkdir()
    grid = {"name": "99_question", "config": str(EXPERIMENTS / "protocol" / "network.yaml"), "seeds": [0]}
    grid["options"] = {"trainer.limit_train_batches": 2}
    variants = {"static": {f"{NETWORK}spec": {"static_kernel": {"channels": "depthwise"}}}}
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid | {"variants": variants}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py", str(folder), "--budget", "smoke"])
    monkeypatch.setenv("PYTHONPATH", str(EXPERIMENTS.parent))
    monkeypatch.setattr(run, "RATES", run.RATES[:1])
    monkeypatch.setattr(run, "RATE_SEEDS", run.RATE_SEEDS[:1])
    monkeypatch.setattr(run, "EXTENSIONS", 0)
    assert run.main() == 0
    rates, rows = (read_rows([folder / "results" / f"smoke-digits{end}.jsonl"]) for end in ("-rates", ""))
    assert [one.variant for one in rates] == ["static learning_rate=0.0025"]
    (trained,) = rows
    assert (trained.variant, trained.budget, trained.dataset, trained.epochs) == ("static", "smoke", "digits", 1)
    assert unpacked(trained.test_correct, trained.test_images).mean() == pytest.approx(trained.test_accuracy)
    assert (folder / "results" / "smoke-digits" / "summary.md").is_file()

    monkeypatch.setattr(latency, "REPEATS", 2)
    assert latency.main() == 0
    (times,) = json.loads((folder / "results" / "smoke-digits-latency.json").read_text())["milliseconds"].values()
    assert 0 < times["inference"]["median"] < times["training"]["median"]
    for kind in latency.WORKLOADS:
        assert (folder / "results" / "smoke-digits" / f"accuracy_{kind}.png").is_file()

    variants["dynamic"] = {f"{NETWORK}spec": {"dynamic_kernel": {"source": "generated", "channels_per_group": 16}}}
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid | {"variants": variants}))
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--no_report"])
    assert run.main() == 0
    assert "dynamic" not in (folder / "results" / "smoke-digits" / "summary.md").read_text()
    again, rows = (read_rows([folder / "results" / f"smoke-digits{end}.jsonl"]) for end in ("-rates", ""))
    assert again[:1] == rates
    assert [one.variant for one in again[1:]] == ["dynamic learning_rate=0.0025"]
    assert [one.variant for one in rows] == ["static", "dynamic"]


def test_a_part_of_a_grid_is_of_known_variants_and_the_first_seeds(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    run = importlib.import_module("run")
    grid = Grid(name="question", config=[], variants={"one": {"a": 1}, "two": {"a": 2}}, seeds=[5, 6, 7])
    part = run.part_of(grid, ["two"], 2)
    assert (part.variants, part.seeds) == ({"two": {"a": 2}}, [5, 6])
    assert run.part_of(grid, None, None) == grid
    with pytest.raises(run.SweepError, match="--only: three is none of question's variants, one, two"):
        run.part_of(grid, ["three"], None)


def test_minutes_interrupt_as_ctrl_c_does_and_end_with_what_they_limit(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    run = importlib.import_module("run")
    with pytest.raises(KeyboardInterrupt), run.limited(0.05 / 60):
        time.sleep(10)
    for minutes in (None, 0.05 / 60):
        with run.limited(minutes):
            pass
    time.sleep(0.1)  # nothing comes later


def tiny_folder(root, *, classes=3, train=10, test=4):
    """Class folders of images whose pixels all have a value that no other image has."""
    values = iter(range(1, 250))
    for split, count in (("train", train), ("test", test)):
        for label in range(classes):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (32, 32), (next(values),) * 3).save(folder / f"{number}.png")
    return root


def values_in(folder):
    """Return the gray values of the pictures in a folder and below."""
    return {int(value) for path in folder.rglob("*.png") for value in np.unique(np.asarray(Image.open(path)))}


def files_in(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


def test_mosaics_have_the_class_of_every_pixel_and_share_no_image_between_splits(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS / "protocol")
    mosaics, root = importlib.import_module("mosaics"), tiny_folder(tmp_path / "images")
    own = {}  # the class of every gray value
    for path in root.rglob("*.png"):
        own[Image.open(path).getpixel((0, 0))[0]] = int(path.parent.name.removeprefix("class"))
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        mosaics.write(root, tmp_path / name, {"train": 4, "val": 1, "test": 2}, seed)
    assert files_in(tmp_path / "one") == files_in(tmp_path / "same") != files_in(tmp_path / "other")
    for path in (tmp_path / "one").glob("*/images/*.png"):
        picture, labels = (np.asarray(Image.open(file)) for file in (path, path.parents[1] / "labels" / path.name))
        assert picture.shape == (64, 64, 3)
        np.testing.assert_array_equal(labels, np.vectorize(own.get)(picture[..., 0]))
    found = [values_in(tmp_path / "one" / split / "images") for split in ("train", "val", "test")]
    assert all(found)
    assert not found[0] & found[1]
    assert not (found[0] | found[1]) & found[2]
    boxes = [box for seed in range(20) for box in mosaics.tiles((0, 0, 64, 64), np.random.default_rng(seed))]
    assert sum((right - left) * (lower - upper) for left, upper, right, lower in boxes) == 20 * 64 * 64
    sides = [side for left, upper, right, lower in boxes for side in (right - left, lower - upper)]
    assert (min(sides), max(sides)) >= (16, 40)
    assert max(sides) <= 48


@pytest.mark.parametrize("gray", [False, True])
def test_cluttered_scenes_are_made_of_images_of_their_own_split_and_show_their_class(gray, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS / "protocol")
    clutter, root = importlib.import_module("clutter"), tiny_folder(tmp_path / "images")
    style = clutter.Style(scale=(2.0, 2.0), degrees=0.0, gray=gray)  # the object covers the scene
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        clutter.write(root, tmp_path / name, {"train": 4, "val": 1, "test": 2}, seed, style)
    assert files_in(tmp_path / "one") == files_in(tmp_path / "same") != files_in(tmp_path / "other")
    training = values_in(root / "train")
    of_class = {
        label: values_in(root / "train" / f"class{label}") | values_in(root / "test" / f"class{label}") for label in range(3)
    }
    for path in (tmp_path / "one").rglob("*.png"):
        lightest = set(np.unique(np.asarray(Image.open(path))).tolist())
        assert lightest & of_class[int(path.parent.name.removeprefix("class"))], path
    found = [values_in(tmp_path / "one" / split) for split in ("train", "val", "test")]
    assert found[0] | found[1] <= training
    assert not found[0] & found[1]
    assert not found[2] & training
    turned = clutter.Style(scale=(0.5, 2.0), degrees=45.0, gray=gray)
    clutter.write(root, tmp_path / "turned", {"train": 3, "val": 1, "test": 1}, 0, turned)
    assert {Image.open(path).size for path in (tmp_path / "turned").rglob("*.png")} == {(48, 48)}


@pytest.mark.parametrize("own_validation", [False, True])
def test_every_image_of_scenes_belongs_to_one_split(own_validation, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS / "protocol")
    scenes, root = importlib.import_module("scenes"), tiny_folder(tmp_path / "images")
    if own_validation:
        shutil.copytree(tiny_folder(tmp_path / "more") / "test", root / "val")
    classes, found = scenes.sources(root)
    assert classes == ["class0", "class1", "class2"]
    every = [source.path for own in found.values() for source in own]
    assert sorted(every) == sorted(root.rglob("*.png"))  # each once
    held_out = root / ("val" if own_validation else "train")
    assert all(path.is_relative_to(held_out) for path, _ in found["val"])
    assert all(path.is_relative_to(root / "test") for path, _ in found["test"])
    assert {label for _, label in found["val"]} == {0, 1, 2}


def test_scenes_without_images_end_in_a_sentence_and_a_part_of_them_has_another_name(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXPERIMENTS / "protocol")
    mosaics = importlib.import_module("mosaics")
    counts = {"train": 2, "val": 1, "test": 1}
    for name, sizes, words in (
        ("no_test", {"test": 0}, "no_test/test/class0: no images in this folder"),
        ("few", {"train": 1}, "few: no image for the train scenes"),
    ):
        with pytest.raises(DataError, match=words):
            mosaics.write(tiny_folder(tmp_path / name, **sizes), tmp_path / "made", counts, 0)
    monkeypatch.setattr(sys, "argv", ["mosaics.py", str(tmp_path / "nowhere"), str(tmp_path / "made")])
    with pytest.raises(SystemExit):
        mosaics.main()
    assert f"mosaics.py: error: {tmp_path}/nowhere/train: no such folder" in capsys.readouterr().err
    root = tiny_folder(tmp_path / "images")
    monkeypatch.setattr(mosaics, "mosaic", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        mosaics.write(root, tmp_path / "made", counts, 0)
    assert not (tmp_path / "made").exists()
    with pytest.raises(DataError, match=r"made.unfinished exists: another process writes it, or was stopped"):
        mosaics.write(root, tmp_path / "made", counts, 0)
