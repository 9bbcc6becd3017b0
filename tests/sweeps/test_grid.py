"""Grid files: which cells they mean, and what is refused before any work."""

import importlib.util
import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.grids import write_grid
from unified_extractor.__main__ import main
from unified_extractor.sweeps.cell import as_cell
from unified_extractor.sweeps.grid import SweepError, points, read_grid
from unified_extractor.sweeps.plan import plan_cells
from unified_extractor.training.cli.planned_run import ParsedRun, planned
from unified_extractor.training.run.duration import duration


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_cells_are_variants_times_settings_times_seeds(tmp_path: Path):
    settings = {"model.optimization.learning_rate": [0.01, 0.003], "model.label_smoothing": [0, 0.1]}
    grid = read_grid(write_grid(tmp_path, variants={"a": {}, "b": {"trainer.max_epochs": 3}}, settings=settings, seeds=[3, 4]))
    cells = list(points(grid))
    assert len({str(cell) for cell in cells}) == len(cells) == 2 * 4 * 2
    assert str(cells[0]) == "a learning_rate=0.01 label_smoothing=0 seed=3"
    assert {cell.label for cell in cells if cell.seed == 3} == {cell.label for cell in cells if cell.seed == 4}
    assert {cell.options.get("trainer.max_epochs") for cell in cells if cell.variant == "b"} == {3}


def test_a_variant_counts_more_than_the_options_of_all_cells(tmp_path: Path):
    variants = {"a": None, "b": {"trainer.max_epochs": 3}}
    grid = read_grid(write_grid(tmp_path, variants=variants, options={"trainer.max_epochs": 5}, seeds=[0]))
    assert [cell.options["trainer.max_epochs"] for cell in points(grid)] == [5, 3]


def test_settings_of_one_name_are_told_apart(tmp_path: Path):
    settings = {"model.mixup.probability": [0, 1], "data.init_args.probability": [0.5]}
    labels = [cell.label for cell in points(read_grid(write_grid(tmp_path, settings=settings, seeds=[0])))]
    assert labels == [f"plain mixup.probability={value} init_args.probability=0.5" for value in (0, 1)]


def test_files_are_named_from_the_grid_and_found_from_here(tmp_path: Path):
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids" / "spec.yaml").touch()
    variants = {"a": {"model.spec": "spec.yaml"}, "b": {"model.spec": "elsewhere.yaml"}}
    grid = read_grid(write_grid(tmp_path, variants=variants))
    assert grid.config == ["grids/tiny.yaml"]
    assert grid.variants == {"a": {"model.spec": "grids/spec.yaml"}, "b": {"model.spec": "elsewhere.yaml"}}


def test_definitions_are_anchors_that_variants_share(tmp_path: Path):
    text = """
        definitions: {offsets: &offsets {offsets: {kind: learned}}, static: &static {static_kernel: {channels: depthwise}}}
        name: question
        config: [tiny.yaml, more.yaml]
        variants: {both: {model.spec: {<<: [*offsets, *static], kernel_size: 5}}, alone: {model.spec: *static}}
        seeds: [0]
    """
    write_grid(tmp_path)
    (tmp_path / "grids" / "more.yaml").touch()
    (file := tmp_path / "grids" / "shared.yaml").write_text(text)
    grid = read_grid(file)
    static = {"static_kernel": {"channels": "depthwise"}}
    assert grid.variants["both"] == {"model.spec": {"offsets": {"kind": "learned"}, **static, "kernel_size": 5}}
    assert grid.variants["alone"] == {"model.spec": static}
    assert grid.config == ["grids/tiny.yaml", "grids/more.yaml"]
    cell = as_cell(grid, next(iter(points(grid))), "0123")
    assert cell.arguments[1:3] == ("--config=grids/tiny.yaml", "--config=grids/more.yaml")


def test_own_keys_count_more_than_merged_ones_and_earlier_merged_ones_more_than_later(tmp_path: Path):
    text = """
        definitions:
          defaults: &defaults {x.size: 1, x.width: 1, x.depth: 1}
          wide: &wide {<<: *defaults, x.width: 2}
          deep: &deep {x.depth: 2, x.width: 3}
        name: question
        config: tiny.yaml
        variants: {a: {<<: [*wide, *deep]}, b: {<<: [*deep, *wide]}, c: {<<: [*deep, *wide], x.size: 4}, d: {<<: *wide}}
        seeds: [0]
    """
    write_grid(tmp_path)
    (file := tmp_path / "grids" / "shared.yaml").write_text(text)
    found = {
        name: "".join(str(options[f"x.{key}"]) for key in ("size", "width", "depth"))
        for name, options in read_grid(file).variants.items()
    }
    assert found == {"a": "121", "b": "132", "c": "432", "d": "121"}


def test_a_cell_is_the_command_a_person_would_type(tmp_path: Path):
    options = {"trainer.max_epochs": 1, "model.network.init_args.widths": [4], "trainer.limit_val_batches": None}
    grid = read_grid(write_grid(tmp_path, options=options, budget="smoke", root="out", seeds=[7]))
    (point,) = points(grid)
    assert as_cell(grid, point, "0123456789ab").arguments == (
        "fit",
        "--config=grids/tiny.yaml",
        "--trainer.max_epochs=1",
        "--trainer.limit_val_batches=null",
        "--model.network.init_args.widths=[4]",
        "--seed_everything=7",
        "--run.root=out",
        "--run.question=question",
        "--run.variant=plain",
        "--run.budget=smoke",
        "--run.name=question/plain-0123456789ab",
        "--ckpt_path=last",
    )


def test_the_name_holds_the_hash_of_the_run_the_command_starts(tmp_path: Path):
    grid = read_grid(write_grid(tmp_path, settings={"model.optimization.learning_rate": [0.1, 0.2]}))
    cells = plan_cells(grid)
    names = [cell.cell.name for cell in cells]
    assert len(set(names)) == 4
    for cell in cells:
        run = planned(cell.cell.arguments[1:])
        assert cell.cell.name == f"plain-{run.config_hash}"
        assert run.run.path == cell.cell.run.path == Path("runs/question") / cell.cell.name
        assert (run.run.question, run.run.variant) == ("question", cell.cell.point.label)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": ({"variantz": {}}, "grids/grid.yaml:variantz: unknown key, did you mean variants?"),
    "nothing like a key": ({"qqq": 1}, "grids/grid.yaml:qqq: unknown key, expected one of name, config, variants"),
    "no name": ({"name": None}, "grids/grid.yaml:name: required, but not given"),
    "a name that leaves the folder": ({"name": "../x"}, "grids/grid.yaml:name: must be letters, digits"),
    "no variants": ({"variants": {}}, "grids/grid.yaml:variants: must be 'name: options' lines, at least one, got {}"),
    "a variant's name": ({"variants": {"a b": {}}}, "grids/grid.yaml:variants.a b: the name must be letters, digits"),
    "a variant that is a list": ({"variants": {"a": [1]}}, "grids/grid.yaml:variants.a: must be 'option: value' lines, got [1]"),
    "no seeds": ({"seeds": []}, "grids/grid.yaml:seeds: must be a list of different whole numbers, got []"),
    "a seed twice": ({"seeds": [1, 1]}, "grids/grid.yaml:seeds: must be a list of different whole numbers, got [1, 1]"),
    "a seed that no run takes": ({"seeds": [0, 2**32]}, "grids/grid.yaml:seeds: must lie in 0..4294967295, got 4294967296"),
    "a seed that is true": ({"seeds": [True]}, "grids/grid.yaml:seeds: must be a list of different whole numbers, got [True]"),
    "a setting without a list": (
        {"settings": {"a.b": 1}},
        "grids/grid.yaml:settings.a.b: must be a list of different values, got 1",
    ),
    "a setting twice": (
        {"settings": {"a.b": [1, 1]}},
        "grids/grid.yaml:settings.a.b: must be a list of different values, got [1, 1]",
    ),
    "a setting that a variant has": (
        {"settings": {"a.b": [1]}, "variants": {"x": {"a.b": 2}}},
        "grids/grid.yaml:variants.x.a.b: is one of the settings too",
    ),
    "an option of the sweep": ({"options": {"run.name": "x"}}, "grids/grid.yaml:options.run.name: is set by the sweep itself"),
    "a config that is not there": ({"config": "no.yaml"}, "grids/grid.yaml:config: no such file: grids/no.yaml"),
    "a root that is a number": ({"root": 3}, "grids/grid.yaml:root: must be text, got 3"),
    "an option that fit refuses": (
        {"variants": {"good": {}, "bad": {"trainer.max_epoch": 3}}},
        "cell bad seed=0: trainer.max_epoch: unknown key, did you mean max_epochs?",
    ),
    "a value that fit refuses": (
        {"settings": {"data.init_args.batch_size": [128, 5000]}},
        "cell plain batch_size=5000 seed=0: data.init_args.batch_size: must not exceed the training images, got 5000",
    ),
    "two cells that are one": (
        {"variants": {"a": {}, "b": {"model.optimization.learning_rate": 0.01}}},
        "cells a seed=0 and b seed=0: have the same configuration",
    ),
    "cells that would never be finished": (
        {"options": {"trainer.enable_checkpointing": False}},
        "cell plain seed=0: trainer.enable_checkpointing=false: such a run leaves no record",
    ),
    "a device that is not here": (
        {"options": {"trainer.accelerator": "gpu", "trainer.devices": 64}},
        "cell plain seed=0: trainer.",
    ),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_one_line_before_any_work(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    changes, reason = REFUSED[case]
    file = write_grid(tmp_path, **changes)
    with pytest.raises(SystemExit) as stop:
        main(["sweep", str(file.relative_to(tmp_path))])
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert printed.err.startswith(f"uniex: error: {reason}")
    assert printed.err.count("\n") == 1
    assert not printed.out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", "line 1: "),
        ("variants:\n  a: {}\n  a: {x.y: 1}\n", "line 2: a is there twice"),
        ("variants: {a: {<<: 1}}", "line 1: << must name mappings"),
        ("- 1", "must hold 'key: value' lines"),
        (None, "No such file or directory"),
    ],
)
def test_a_file_that_is_no_grid(text: str | None, reason: str, tmp_path: Path):
    if text is not None:
        (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(SweepError, match=f"^grid.yaml: {reason}"):
        read_grid(Path("grid.yaml"))


def test_a_dry_run_shows_every_cell_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    spec = {"model.network.init_args.spec": "involution(channels_per_group=4)"}
    file = write_grid(tmp_path, variants={"plain": {}, "other": spec}, budget="smoke")
    before = sorted(tmp_path.rglob("*"))
    variables, threads, state = dict(os.environ), torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(2)  # the runs have one
    assert main(["sweep", str(file), "--dry_run", "--commands", "--workers", "2"]) == 0
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    assert sorted(tmp_path.rglob("*")) == before
    assert dict(os.environ) == variables
    assert torch.equal(torch.get_rng_state(), state)
    text = capsys.readouterr().out
    rows = [[value.strip() for value in line.split("│")[1:6]] for line in text.splitlines() if line.startswith("│")]
    cells = plan_cells(read_grid(file))
    assert rows == [
        [cell.cell.point.label, str(cell.cell.point.seed), "new", f"{cell.parameters:,}", f"{cell.multiply_adds:,}"]
        for cell in cells
    ]
    assert [line for line in text.splitlines() if line.startswith("uniex ")] == [
        shlex.join(["uniex", *cell.cell.arguments]) for cell in cells
    ]
    assert "  plain: convolution\n  other: involution with dynamic_kernel.channels_per_group=4 (preset: 16)\n" in text
    assert "4 cells, 0 finished" in text
    assert "with 2 at once about" in text


def test_estimates_follow_the_work(tmp_path: Path):
    """8 batches of 128 of the 1,151 images, three times forward; ten times the epochs cost ten times the steps."""
    few, many = (
        plan_cells(read_grid(write_grid(tmp_path, seeds=[0], options={"trainer.max_epochs": epochs})))[0] for epochs in (10, 100)
    )
    assert few.training_multiply_adds == 3 * few.multiply_adds * 8 * 128 * 10
    assert many.training_multiply_adds == 10 * few.training_multiply_adds
    assert few.seconds is not None
    assert many.seconds is not None
    assert many.seconds > few.seconds
    assert few.left("unfinished", 4) == pytest.approx(0.6)
    assert (few.left("new", 4), few.left("finished", 4)) == (1, 0)


def test_a_variant_is_built_once_for_all_its_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    of_one_seed = [plan_cells(read_grid(write_grid(tmp_path, seeds=[seed])))[0] for seed in (0, 1)]
    parsed, built, parse, build = [], [], ParsedRun.__init__, ParsedRun.built
    monkeypatch.setattr(ParsedRun, "__init__", lambda *given: parsed.append(given) or parse(*given))
    monkeypatch.setattr(ParsedRun, "built", lambda *given, **more: built.append(given) or build(*given, **more))
    together = plan_cells(read_grid(write_grid(tmp_path, seeds=[0, 1])))
    assert len(parsed) == len(built) == len({cell.cell.point.label for cell in together})
    first = [cell for cell in together if cell.cell.point.label == of_one_seed[0].cell.point.label]
    assert [cell.cell.arguments for cell in first] == [cell.cell.arguments for cell in of_one_seed]
    assert len({(cell.parameters, cell.multiply_adds, cell.seconds, cell.device) for cell in first}) == 1


def test_a_variant_is_timed_where_a_seed_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    states = iter(["finished", "finished", "new", "new", "new"])
    monkeypatch.setattr("unified_extractor.sweeps.cell.Cell.state", lambda cell: next(states))
    first, second, third = plan_cells(read_grid(write_grid(tmp_path, seeds=[0, 1, 2], variants={"plain": {}})))
    assert first.seconds == 0
    assert second.seconds == third.seconds > 0


def test_a_device_that_is_elsewhere_costs_multiply_adds(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    options = {"trainer.accelerator": "gpu", "trainer.devices": 4}
    file = write_grid(tmp_path, options=options)
    assert main(["sweep", str(file), "--dry_run"]) == 0
    text = capsys.readouterr().out
    assert "unknown" in text
    assert "how long that takes is not known here: trainer.accelerator: 'gpu' is not there" in text
    cells = plan_cells(read_grid(file), elsewhere=True)
    here = plan_cells(read_grid(write_grid(tmp_path)))
    assert f"to do: {sum(cell.training_multiply_adds for cell in here):.3g} multiply-adds" in text
    assert not {cell.cell.name for cell in cells} & {cell.cell.name for cell in here}


def test_a_sweep_is_refused_where_files_have_no_locks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, found=importlib.util.find_spec: None if name == "fcntl" else found(name)
    )
    with pytest.raises(SystemExit) as stop:
        main(["sweep", str(write_grid(tmp_path, seeds=[0]))])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("uniex: error: a sweep needs the file locks of Linux or macOS")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--cluster", "slurm", "--slurm", "partitoin=gpu"], "Unknown argument 'partitoin' for executor 'slurm'"),
        (["--slurm", "time=3"], "--slurm is of --cluster slurm alone"),
        (["--cluster", "slurm", "--slurm", "time"], "must be KEY=VALUE, got 'time'"),
        (["--workers", "0"], "--workers must be at least 1"),
    ],
)
def test_a_wrong_call_is_refused(
    arguments: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("submitit.SlurmExecutor.affinity", classmethod(lambda kind: 2))
    with pytest.raises(SystemExit) as stop:
        main(["sweep", str(write_grid(tmp_path, seeds=[0])), *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert reason in error.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


def test_durations_are_for_people():
    assert [duration(seconds) for seconds in (4.4, 99, 600, 5999, 36000 + 300)] == [
        "4.4 s",
        "99 s",
        "10 min",
        "1 h 40 min",
        "10 h 05 min",
    ]


def test_values_reach_the_command_line_as_they_are():
    from unified_extractor.sweeps.grid import as_text

    values = [None, True, 0.003, "text", [1, "a"], {"class_path": "x.Y", "init_args": {"b": False}}]
    assert [as_text(value) for value in values[:4]] == ["null", "true", "0.003", "text"]
    assert [json.loads(as_text(value)) for value in values[4:]] == values[4:]
