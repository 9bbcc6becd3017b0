"""Experiments: every variant can be had at the protocol's cost, rows are of one cost, and a whole experiment runs."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import yaml

from unified_extractor.analysis.record import read_rows
from unified_extractor.models.matched_net import TOLERANCE, Budget, Shape, matching_widths
from unified_extractor.spec import ExtractorSpec
from unified_extractor.sweeps.grid import read_grid

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
GRIDS = sorted(EXPERIMENTS.glob("*/*.yaml"))
GRIDS = [path for path in GRIDS if path.parent.name != "protocol"]
ROWS = sorted(path for path in EXPERIMENTS.glob("*/results/*.jsonl") if path.parts[-3] != "00_first_look")
SPEC = "model.network.init_args.spec"


def spec_of(value, folder):
    """The spec, or one a stage, of a grid's option."""
    if isinstance(value, list):
        return [spec_of(one, folder) for one in value]
    return ExtractorSpec(**(yaml.safe_load(Path(value).read_text()) if isinstance(value, str) else value))


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_variant_can_be_had_at_the_protocols_cost(path, monkeypatch):
    monkeypatch.chdir(EXPERIMENTS.parent)
    network = yaml.safe_load((EXPERIMENTS / "protocol" / "network.yaml").read_text())["model"]["network"]["init_args"]
    shape = Shape(in_chans=3, **{key: network[key] for key in ("num_classes", "image_size", "widths", "depths", "stem_stride")})
    for name, options in read_grid(path).variants.items():
        found = matching_widths(
            spec_of(options[SPEC], path.parent), shape, Budget(network["multiply_adds"], network["parameters"]), "both"
        )
        assert min(found) >= 1, name


@pytest.mark.parametrize("path", ROWS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_rows_of_a_file_are_of_one_cost_and_one_data_set(path):
    rows = read_rows([path])
    assert len({(row.dataset, row.budget, row.train_images, row.epochs, row.batch_size) for row in rows}) == 1
    for figure in ("parameters", "multiply_adds"):
        values = [getattr(row, figure) for row in rows]
        assert max(values) <= (1 + TOLERANCE) / (1 - TOLERANCE) * min(values)


def test_a_whole_experiment_runs_and_a_new_variant_alone_the_second_time(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    run, latency = (importlib.import_module(name) for name in ("run", "latency"))
    folder = tmp_path / "99_question"
    folder.mkdir()
    grid = {"name": "99_question", "config": str(EXPERIMENTS / "protocol" / "network.yaml"), "seeds": [0]}
    variants = {"static": {SPEC: {"static_kernel": {"channels": "depthwise"}}}}
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid | {"variants": variants}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py", str(folder), "--budget", "smoke"])
    monkeypatch.setenv("PYTHONPATH", str(EXPERIMENTS.parent))
    assert run.main() == 0
    rates, rows = (read_rows([folder / "results" / f"smoke-digits{end}.jsonl"]) for end in ("-rates", ""))
    assert {row.variant for row in rates} == {f"static learning_rate={rate}" for rate in run.RATES}
    (row,) = rows
    assert (row.variant, row.budget, row.dataset, row.epochs) == ("static", "smoke", "digits", 1)
    assert (folder / "results" / "smoke-digits" / "summary.md").is_file()

    monkeypatch.setattr(latency, "REPEATS", 2)
    assert latency.main() == 0
    (times,) = json.loads((folder / "results" / "smoke-digits-latency.json").read_text())["milliseconds"].values()
    assert 0 < times["inference"]["median"] < times["training"]["median"]
    for kind in latency.WORKLOADS:
        assert (folder / "results" / "smoke-digits" / f"accuracy_{kind}.png").is_file()

    variants["dynamic"] = {SPEC: {"dynamic_kernel": {"source": "generated", "channels_per_group": 16}}}
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid | {"variants": variants}))
    monkeypatch.setattr(run, "RATES", run.RATES[:1])
    assert run.main() == 0
    again, rows = (read_rows([folder / "results" / f"smoke-digits{end}.jsonl"]) for end in ("-rates", ""))
    assert again[:2] == rates
    assert [row.variant for row in again[2:]] == ["dynamic learning_rate=0.0025"]
    assert [row.variant for row in rows] == ["static", "dynamic"]
