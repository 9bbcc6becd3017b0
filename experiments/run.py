"""Run an experiment: choose every variant's learning rate on validation images, train all seeds with it, make tables and figures.

    python experiments/run.py 08_normalisation                    (CIFAR-10 from JPEG files in data/cifar10_jpeg, budget cpu)
    python experiments/run.py 08_normalisation --data cifar10     (torchvision's, in data/cifar10; --root names another folder)
    python experiments/run.py 08_normalisation --data digits      (nothing to fetch)

What has a row in the experiment's results is not run again: a new variant is one entry in its grid.yaml, and the same command.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from unified_extractor.__main__ import main as uniex
from unified_extractor.analysis.record import read_rows
from unified_extractor.commands.sweep import run_sweep
from unified_extractor.sweeps.grid import Grid, points, read_grid

HERE = Path(__file__).parent
LEARNING_RATE = "model.optimization.learning_rate"
RATES = (0.0025, 0.005)
"""The short list, for every variant the same. experiments/01_unified/README.md shows what lies beyond it."""
DATA = {"smoke": "digits", "screen": "cifar10_jpeg", "cpu": "cifar10_jpeg", "gpu": "cifar10_jpeg_all"}
CHOOSING = {"smoke": "smoke", "screen": "screen", "cpu": "screen", "gpu": "gpu_screen"}
"""The budget of the runs by which the learning rate is chosen."""


def at_budget(grid: Grid, budget: str, data: str, root: str | None) -> Grid:
    """The grid with the protocol's files for a budget and a data set."""
    protocol = HERE / "protocol"
    files = [protocol / "network.yaml", protocol / f"{budget}.yaml", protocol / "data" / f"{data}.yaml"]
    options = {**grid.options, **({"data.init_args.root": root} if root else {})}
    return replace(grid, name=f"{grid.name}/{budget}-{data}", config=[str(file) for file in files], options=options)


def chosen_rates(grid: Grid, rows: Path) -> Mapping[str, float]:
    """The learning rate of every variant with the highest validation accuracy; of equals the smaller."""
    accuracy = {row.variant: row.val_accuracy for row in read_rows([rows])}
    found: dict[str, dict[float, float]] = {}
    for point in points(grid):
        found.setdefault(point.variant, {})[point.options[LEARNING_RATE]] = accuracy[point.label]
    return {variant: max(sorted(by_rate), key=by_rate.__getitem__) for variant, by_rate in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser("run.py", description="Run an experiment and report it.")
    parser.add_argument("experiment", help="its folder, such as 08_normalisation")
    parser.add_argument("--grid", default="grid", help="the experiment's grid file, without its ending (default grid)")
    parser.add_argument("--budget", choices=DATA, default="cpu", help="the class of its cost (default cpu)")
    parser.add_argument("--data", help="a file of protocol/data, without its ending")
    parser.add_argument("--root", help="the folder of the images")
    parser.add_argument("--workers", type=int, default=2, help="runs at once (default 2)")
    parser.add_argument("--dry_run", action="store_true", help="print what would run, and how long it would take")
    given = parser.parse_args()
    folder, data = HERE / given.experiment, given.data or DATA[given.budget]
    grid, results = read_grid(folder / f"{given.grid}.yaml"), folder / "results"
    name = f"{given.grid}-{given.budget}-{data}".removeprefix("grid-")
    choosing = replace(
        at_budget(grid, CHOOSING[given.budget], data, given.root), seeds=[0], settings={LEARNING_RATE: list(RATES)}
    )
    rates = results / f"{name}-rates.jsonl"
    if code := run_sweep(choosing, rows=rates, workers=given.workers, dry_run=given.dry_run):
        return code
    if given.dry_run:
        return run_sweep(
            at_budget(grid, given.budget, data, given.root), rows=results / f"{name}.jsonl", workers=given.workers, dry_run=True
        )
    best = chosen_rates(choosing, rates)
    variants = {variant: {**options, LEARNING_RATE: best[variant]} for variant, options in grid.variants.items()}
    trained = replace(at_budget(grid, given.budget, data, given.root), variants=variants)
    if code := run_sweep(trained, rows=results / f"{name}.jsonl", workers=given.workers):
        return code
    return uniex(["report", str(results / f"{name}.jsonl"), "--output", str(results / name)])


if __name__ == "__main__":
    sys.exit(main())
