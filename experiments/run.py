"""Run an experiment: choose every variant's learning rate on validation images, train all seeds with it, make tables and figures.

    python experiments/run.py 08_normalisation                    (CIFAR-10 from JPEG files in data/cifar10_jpeg, budget cpu)
    python experiments/run.py 08_normalisation --data cifar10     (torchvision's, in data/cifar10; --root names another folder)
    python experiments/run.py 08_normalisation --data digits      (nothing to fetch)

What has a row in any experiment's results is not run again: a new variant is one entry in its grid.yaml, and the same command.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from unified_extractor.__main__ import main as uniex
from unified_extractor.analysis.record import RecordError, read_rows
from unified_extractor.commands.sweep import run_sweep
from unified_extractor.sweeps.errors import SweepError
from unified_extractor.sweeps.grid import Grid, points, read_grid

HERE = Path(__file__).parent
LEARNING_RATE = "model.optimization.learning_rate"
RATES = (0.00125, 0.0025, 0.005)
"""The short list, for every variant the same. At 0.01 all four extractors of experiments/01_unified/learning_rates.yaml were worse."""
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
    """The learning rate of every variant with the highest validation accuracy, of equals the smaller; of those that did not fail."""
    accuracy = {row.variant: row.val_accuracy for row in read_rows([rows])}
    found: dict[str, dict[float, float]] = {}
    for point in points(grid):
        if point.label in accuracy:
            found.setdefault(point.variant, {})[point.options[LEARNING_RATE]] = accuracy[point.label]
    return {variant: max(sorted(by_rate), key=by_rate.__getitem__) for variant, by_rate in found.items()}


def results(given: argparse.Namespace) -> Path:
    """The folder of the report; rows lie beside it, under the same name."""
    name = f"{given.grid}-{given.budget}-{given.data}".removeprefix("grid-")
    return HERE / given.experiment / "results" / name


def parse(about: str) -> argparse.Namespace:
    """The command's options, the data that the budget implies filled in."""
    made = argparse.ArgumentParser(description=about)
    made.add_argument("experiment", help="its folder, such as 08_normalisation")
    made.add_argument("--grid", default="grid", help="the experiment's grid file, without its ending (default grid)")
    made.add_argument("--budget", choices=DATA, default="cpu", help="the class of its cost (default cpu)")
    made.add_argument("--data", help="a file of protocol/data, without its ending")
    made.add_argument("--root", help="the folder of the images")
    made.add_argument("--workers", type=int, default=2, help="runs at once (default 2)")
    made.add_argument("--dry_run", action="store_true", help="print what would run, and how long it would take")
    given = made.parse_args()
    given.data = given.data or DATA[given.budget]
    return given


def main() -> int:
    given = parse("Run an experiment and report it.")
    report = results(given)
    rates, rows = (report.with_name(f"{report.name}{end}.jsonl") for end in ("-rates", ""))
    others = [path for path in HERE.glob("*/results/*.jsonl") if path not in (rates, rows) and path.parts[-3] != "00_first_look"]
    sweep = partial(run_sweep, reuse=sorted(others), workers=given.workers, dry_run=given.dry_run)
    try:
        grid = read_grid(HERE / given.experiment / f"{given.grid}.yaml")
        trained, choosing = (at_budget(grid, budget, given.data, given.root) for budget in (given.budget, CHOOSING[given.budget]))
        choosing = replace(choosing, name=f"{choosing.name}-rates", seeds=[0], settings={LEARNING_RATE: list(RATES)})
        failed = sweep(choosing, rows=rates)
        if not given.dry_run:
            best = chosen_rates(choosing, rates)
            variants = {name: {**options, LEARNING_RATE: best[name]} for name, options in grid.variants.items() if name in best}
            trained = replace(trained, variants=variants)
        failed |= sweep(trained, rows=rows)
    except (SweepError, RecordError) as error:
        sys.exit(f"run.py: error: {error}")
    return failed if given.dry_run else uniex(["report", str(rows), "--output", str(report)]) or failed


if __name__ == "__main__":
    sys.exit(main())
