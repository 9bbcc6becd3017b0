"""Run an experiment: choose every variant's learning rate on validation images, train all seeds with it, make tables and figures.

    python experiments/run.py 08_normalization                    (CIFAR-10 from JPEG files in data/cifar10_jpeg, budget cpu)
    python experiments/run.py 08_normalization --data cifar10     (torchvision's, in data/cifar10; --root names another folder)
    python experiments/run.py 08_normalization --data digits      (nothing to fetch)
    python experiments/run.py 08_normalization --accelerator gpu --workers 12    (the same runs where there is a GPU, to be had in minutes)

What has a row in any experiment's results is not run again: a new variant is one entry in its grid.yaml, and the same command.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from unified_extractor.__main__ import main as uniex
from unified_extractor.commands.sweep import run_sweep
from unified_extractor.results.record import RecordError, read_rows
from unified_extractor.sweeps.grid import Grid, Options, SweepError, read_grid

HERE = Path(__file__).parent
LEARNING_RATE = "model.optimization.learning_rate"
RATES = (0.0025, 0.005)
"""The learning rates that every variant is tried at. A variant that is best at an end gets half or twice that rate as well."""
EXTENSIONS = 3
"""The number of times that a variant's list of rates may grow at an end."""
DATA = {"smoke": "digits", "screen": "cifar10_jpeg", "cpu": "cifar10_jpeg", "gpu": "cifar10_jpeg_all"}
CHOOSING = {"smoke": "smoke", "screen": "screen", "cpu": "screen", "gpu": "gpu_screen"}
"""The budget of the runs by which the learning rate is chosen."""


def at_budget(grid: Grid, budget: str, given: argparse.Namespace) -> Grid:
    """Return the grid with the protocol's files for a budget and the given data set, on the given accelerator."""
    protocol = HERE / "protocol"
    files = [protocol / "network.yaml", protocol / f"{budget}.yaml", protocol / "data" / f"{given.data}.yaml"]
    options = dict(grid.options)
    if given.root:
        options["data.init_args.root"] = given.root
    if given.accelerator:
        options |= {"trainer.accelerator": given.accelerator, "trainer.devices": 1}
    return replace(grid, name=f"{grid.name}/{title(budget, given)}", config=[str(file) for file in files], options=options)


def title(budget: str, given: argparse.Namespace) -> str:
    """Return what runs have in common: budget and data set, and the accelerator where it is not the budget's own."""
    return f"{budget}-{given.data}" + (f"-on_{given.accelerator}" if given.accelerator else "")


def accuracies(grid: Grid, rows: Path) -> dict[str, dict[float, float]]:
    """Return the validation accuracy of every variant at every learning rate that it has a row for."""
    found: dict[str, dict[float, float]] = {}
    for row in read_rows([rows]) if rows.exists() else []:  # none: every run has failed
        variant, _, rate = row.variant.rpartition(" learning_rate=")
        if variant in grid.variants:
            found.setdefault(variant, {})[float(rate)] = row.val_accuracy
    return found


def best(by_rate: Mapping[float, float]) -> float:
    """Return the learning rate with the highest accuracy, of equals the smaller."""
    return max(sorted(by_rate), key=by_rate.__getitem__)


def beyond(by_rate: Mapping[float, float]) -> list[float]:
    """Return the next rate beyond the best, where that is an end of those tried and fewer than ``EXTENSIONS`` steps off the short list."""
    rate, factor = best(by_rate), 2**EXTENSIONS
    lower = [rate / 2] * (rate == min(by_rate) and rate / 2 >= min(RATES) / factor)
    return lower + [rate * 2] * (rate == max(by_rate) and rate * 2 <= max(RATES) * factor)


def choose_rates(grid: Grid, rows: Path, sweep: Callable[..., int], *, dry_run: bool = False) -> dict[str, float]:
    """Run every variant at all rates of the short list and beyond, until none is best at an end; return the best of each.

    A variant that has no row at any rate, because all its runs failed, has no rate. A dry run goes by the rows that are there.
    """
    sweep(replace(grid, settings={LEARNING_RATE: list(RATES)}), rows=rows)
    for _ in range(1 if dry_run else EXTENSIONS):
        wanted: dict[float, dict[str, Options]] = {}
        for variant, by_rate in accuracies(grid, rows).items():
            for rate in beyond(by_rate):
                wanted.setdefault(rate, {})[variant] = grid.variants[variant]
        for rate, variants in wanted.items():
            sweep(replace(grid, variants=variants, settings={LEARNING_RATE: [rate]}), rows=rows)
    return {variant: best(by_rate) for variant, by_rate in accuracies(grid, rows).items()}


def results(given: argparse.Namespace) -> Path:
    """Return the folder of the report; rows lie beside it, under the same name."""
    name = title(given.budget, given)
    return HERE / given.experiment / "results" / (name if given.grid == "grid" else f"{given.grid}-{name}")


def parser(about: str) -> argparse.ArgumentParser:
    """Return a parser of the options that name an experiment's grid, budget and data."""
    made = argparse.ArgumentParser(description=about)
    made.add_argument("experiment", help="its folder, such as 08_normalization")
    made.add_argument("--grid", default="grid", help="the experiment's grid file, without its ending (default grid)")
    made.add_argument("--budget", choices=DATA, default="cpu", help="the class of its cost (default cpu)")
    made.add_argument("--data", help="a file of protocol/data, without its ending")
    made.add_argument("--root", help="the folder of the images")
    made.add_argument("--accelerator", choices=("cpu", "gpu"), help="where to run what another budget's device is meant for")
    return made


def parse(made: argparse.ArgumentParser) -> argparse.Namespace:
    """Return the parsed options, with the data that the budget implies. Exits for an experiment or data that are not there."""
    given = made.parse_args()
    given.data = given.data or DATA[given.budget]
    for path in (HERE / given.experiment / f"{given.grid}.yaml", HERE / "protocol" / "data" / f"{given.data}.yaml"):
        if not path.is_file():
            others = ", ".join(sorted(other.stem for other in path.parent.glob("*.yaml")))
            made.error(f"{path}: no such file" + (f"; there are {others}" if others else ""))
    return given


def main() -> int:
    made = parser("Run an experiment and report it.")
    made.add_argument("--workers", type=int, default=2, help="runs at once (default 2)")
    made.add_argument("--dry_run", action="store_true", help="print what would run, and how long it would take")
    given = parse(made)
    if given.workers < 1:
        made.error(f"--workers must be at least 1, got {given.workers}")
    report = results(given)
    rates, rows = (report.with_name(f"{report.name}{end}.jsonl") for end in ("-rates", ""))
    others = [path for path in HERE.glob("*/results/*.jsonl") if path not in (rates, rows) and path.parts[-3] != "00_first_look"]
    sweep = partial(run_sweep, reuse=sorted(others), workers=given.workers, dry_run=given.dry_run)
    without: list[str] = []
    try:
        grid = read_grid(HERE / given.experiment / f"{given.grid}.yaml")
        trained, choosing = (at_budget(grid, budget, given) for budget in (given.budget, CHOOSING[given.budget]))
        choosing = replace(choosing, name=f"{choosing.name}-rates", seeds=[0])
        chosen = choose_rates(choosing, rates, sweep, dry_run=given.dry_run)
        without = [name for name in grid.variants if name not in chosen]
        variants = {name: {**options, LEARNING_RATE: chosen[name]} for name, options in grid.variants.items() if name in chosen}
        if given.dry_run:  # a rate that is not chosen yet changes nothing of what a run costs
            variants |= {name: grid.variants[name] for name in without}
        failed = sweep(replace(trained, variants=variants), rows=rows)
    except (SweepError, RecordError) as error:
        sys.exit(f"run.py: error: {error}")
    if given.dry_run:
        if without:
            print(f"at the protocol's learning rate, until there are rows to choose one by: {', '.join(without)}")
        return failed
    for name in without:
        print(f"run.py: {name} is left out: its runs failed at every learning rate", file=sys.stderr)
    return uniex(["report", str(rows), "--output", str(report)]) or failed or bool(without)


if __name__ == "__main__":
    sys.exit(main())
