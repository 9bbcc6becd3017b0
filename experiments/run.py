"""Run an experiment: choose every variant's learning rate on validation images, train all seeds with it, make tables and figures.

    python experiments/run.py 08_normalization                    (CIFAR-10 from JPEG files in data/cifar10_jpeg, budget cpu)
    python experiments/run.py 08_normalization --data cifar10     (torchvision's, in data/cifar10; --root names another folder)
    python experiments/run.py 08_normalization --data digits      (nothing to fetch)
    python experiments/run.py 08_normalization --accelerator gpu --workers 12    (the same runs where there is a GPU, to be had in minutes)
    python experiments/run.py 08_normalization --only static dynamic --seeds 2 --minutes 8    (a part of it, and no longer than that)

What has a row in any experiment's results is not run again: a new variant is one entry in its grid.yaml, and the same command. Stopped by
Ctrl-C or --minutes, it goes on from rows and checkpoints. The first file of a grid's config says what network is trained and how.
"""

import argparse
import math
import signal
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import yaml

from unified_extractor.__main__ import main as uniex
from unified_extractor.commands.sweep import run_sweep
from unified_extractor.results.record import RecordError, read_rows
from unified_extractor.sweeps.grid import Grid, Options, SweepError, read_grid

HERE = Path(__file__).parent
LEARNING_RATE = "model.optimization.learning_rate"
RATES = (0.5, 1.0)
"""The learning rates that every variant is tried at, as multiples of the protocol's. A variant that is best at an end gets half or twice
that rate as well."""
EXTENSIONS = 3
"""The number of times that a variant's list of rates may grow at an end."""
RATE_SEEDS = (1000, 1001)
"""The seeds of the runs by which learning rates are chosen; no other run has them."""
FIRST_FRAME = tuple(f"{number:02}" for number in range(1, 9))
"""The numbers of the experiments from before rates were chosen by two seeds: theirs were chosen by seed 0, and stay."""
DATA = {
    "smoke": "digits",
    "screen": "cifar10_jpeg",
    "cpu": "cifar10_jpeg",
    "cpu_screen": "cifar10_jpeg",
    "gpu": "cifar10_jpeg_all",
    "epochs_8": "cifar100_all",
    "epochs_20": "cifar100_all",
    "epochs_80": "cifar100_all",
    "epochs_200": "cifar100_yardstick",
}
CHOOSING = {"smoke": "smoke", "screen": "screen", "cpu": "screen", "cpu_screen": "screen", "gpu": "gpu_screen"}
CHOOSING |= {"epochs_8": "epochs_2_screen"} | {f"epochs_{count}": "epochs_5_screen" for count in (20, 80, 200)}
"""The budget of the runs by which the learning rate is chosen."""


def at_budget(grid: Grid, budget: str, given: argparse.Namespace) -> Grid:
    """Return the grid with the protocol's files for a budget and the given data set, on the given accelerator."""
    protocol = HERE / "protocol"
    files = [grid.config[0], protocol / f"{budget}.yaml", protocol / "data" / f"{given.data}.yaml"]
    options = dict(grid.options)
    if given.root:
        options["data.init_args.root"] = given.root
    if given.accelerator:
        options |= {"trainer.accelerator": given.accelerator, "trainer.devices": 1}
    return replace(grid, name=f"{grid.name}/{title(budget, given)}", config=[str(file) for file in files], options=options)


def title(budget: str, given: argparse.Namespace) -> str:
    """Return what runs have in common: budget and data set, and the accelerator where it is not the budget's own."""
    return f"{budget}-{given.data}" + (f"-on_{given.accelerator}" if given.accelerator else "")


def rate_seeds(experiment: str) -> list[int]:
    """Return the seeds by which an experiment's learning rates are chosen."""
    return [0] if Path(experiment).name.startswith(FIRST_FRAME) else list(RATE_SEEDS)


def accuracies(grid: Grid, rows: Path) -> dict[str, dict[float, list[float]]]:
    """Return the validation accuracies, in segmentation mIoU, of every variant at every learning rate that it has rows for, a seed each."""
    found: dict[str, dict[float, list[float]]] = {}
    for row in read_rows([rows]) if rows.exists() else []:  # none: every run has failed
        variant, _, rate = row.variant.rpartition(" learning_rate=")
        if variant in grid.variants:
            found.setdefault(variant, {}).setdefault(float(rate), []).append(getattr(row, f"val_{row.score}"))
    return found


def best(by_rate: Mapping[float, Sequence[float]]) -> float:
    """Return the learning rate with the highest mean accuracy, of equals the smaller."""
    return max(sorted(by_rate), key=lambda rate: statistics.fmean(by_rate[rate]))


def chosen_rates(found: Mapping[str, Mapping[float, Sequence[float]]]) -> dict[str, float]:
    """Return the learning rate of every variant: the middle one of those that are no worse than its best beyond noise.

    That is, of the rates whose mean accuracy is within a standard error of a difference of two means of the highest; of an even number the
    smaller of the middle two. The standard error is pooled over all variants and rates; with one seed a rate it is 0, and the best is
    chosen.
    """
    cells = [values for by_rate in found.values() for values in by_rate.values() if len(values) > 1]
    freedom = sum(len(values) - 1 for values in cells)
    variance = sum((len(values) - 1) * statistics.variance(values) for values in cells) / freedom if freedom else 0.0
    rates = {}
    for variant, by_rate in found.items():
        highest = by_rate[best(by_rate)]
        means = {rate: statistics.fmean(by_rate[rate]) for rate in sorted(by_rate)}
        errors = {rate: math.sqrt(variance * (1 / len(by_rate[rate]) + 1 / len(highest))) for rate in means}
        tied = [rate for rate, mean in means.items() if mean >= max(means.values()) - errors[rate]]
        rates[variant] = tied[(len(tied) - 1) // 2]
    return rates


def short_list(grid: Grid) -> list[float]:
    """Return the learning rates that every variant is tried at: those of ``RATES``, of the rate in the grid's files."""
    given = [yaml.safe_load(Path(file).read_text()).get("model", {}).get("optimization", {}) for file in grid.config]
    (*_, rate) = (float(options["learning_rate"]) for options in given if "learning_rate" in options)
    return [rate * factor for factor in RATES]


def beyond(by_rate: Mapping[float, Sequence[float]], rates: Sequence[float]) -> list[float]:
    """Return the next rate beyond the best, where that is an end of those tried and fewer than ``EXTENSIONS`` steps off the short list."""
    rate, factor = best(by_rate), 2**EXTENSIONS
    lower = [rate / 2] * (rate == min(by_rate) and rate / 2 >= min(rates) / factor)
    return lower + [rate * 2] * (rate == max(by_rate) and rate * 2 <= max(rates) * factor)


def choose_rates(
    grid: Grid, rows: Path, sweep: Callable[..., int], *, others: Mapping[str, Options] | None = None, dry_run: bool = False
) -> dict[str, float]:
    """Run every variant at all rates of the short list and beyond, until none is best at an end; return the chosen ones.

    A variant whose options state a rate keeps it. One that has no row at any rate, because all its runs failed, has no rate. The rows of
    ``others``, variants that are not run now, tell how large noise is too. A dry run goes by the rows that are there.
    """
    stated = {variant: float(options[LEARNING_RATE]) for variant, options in grid.variants.items() if LEARNING_RATE in options}
    grid = replace(grid, variants={variant: options for variant, options in grid.variants.items() if variant not in stated})
    if not grid.variants:
        return stated
    rates = short_list(grid)
    sweep(replace(grid, settings={LEARNING_RATE: rates}), rows=rows)
    _run_at(rates_without_a_seed(grid, rows), grid, rows, sweep)
    for _ in range(1 if dry_run else EXTENSIONS):
        _run_at({variant: beyond(by_rate, rates) for variant, by_rate in accuracies(grid, rows).items()}, grid, rows, sweep)
    chosen = chosen_rates(accuracies(replace(grid, variants={**(others or {}), **grid.variants}), rows))
    return stated | {variant: rate for variant, rate in chosen.items() if variant in grid.variants}


def rates_without_a_seed(grid: Grid, rows: Path) -> dict[str, list[float]]:
    """Return of every variant the rates beyond the short list that lack rows of some seeds, as where a run was stopped between two."""
    rates = short_list(grid)
    return {
        variant: [rate for rate, values in by_rate.items() if rate not in rates and len(values) < len(grid.seeds)]
        for variant, by_rate in accuracies(grid, rows).items()
    }


def _run_at(rates: Mapping[str, Sequence[float]], grid: Grid, rows: Path, sweep: Callable[..., int]) -> None:
    """Run every variant at its rates, variants of one rate together."""
    wanted: dict[float, dict[str, Options]] = {}
    for variant, several in rates.items():
        for rate in several:
            wanted.setdefault(rate, {})[variant] = grid.variants[variant]
    for rate, variants in wanted.items():
        sweep(replace(grid, variants=variants, settings={LEARNING_RATE: [rate]}), rows=rows)


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


def part_of(grid: Grid, only: Sequence[str] | None, seeds: int | None) -> Grid:
    """Return a grid with these of its variants alone, all by default, and the first so many of its seeds. Raises ``SweepError``."""
    if unknown := [name for name in only or () if name not in grid.variants]:
        raise SweepError(f"--only: {unknown[0]} is none of {grid.name}'s variants, {', '.join(grid.variants)}")
    variants = {name: options for name, options in grid.variants.items() if only is None or name in only}
    return replace(grid, variants=variants, seeds=grid.seeds[:seeds])


@contextmanager
def limited(minutes: float | None) -> Iterator[None]:
    """Interrupt what runs inside as Ctrl-C does, when so many minutes are over; None: never."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 60 * (minutes or 0))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def trained(given: argparse.Namespace, rates: Path, rows: Path) -> tuple[int, list[str]]:
    """Choose the variants' rates and run all seeds; return 1 if a run failed, else 0, and the variants that have no rate."""
    others = [path for path in HERE.glob("*/results/*.jsonl") if path not in (rates, rows) and path.parts[-3] != "00_first_look"]
    sweep = partial(run_sweep, reuse=sorted(others), workers=given.workers, dry_run=given.dry_run)
    whole = read_grid(HERE / given.experiment / f"{given.grid}.yaml")
    grid = part_of(whole, given.only, given.seeds)
    final, choosing = (at_budget(grid, budget, given) for budget in (given.budget, CHOOSING[given.budget]))
    choosing = replace(choosing, name=f"{choosing.name}-rates", seeds=rate_seeds(given.experiment))
    chosen = choose_rates(choosing, rates, sweep, others=whole.variants, dry_run=given.dry_run)
    without = [name for name in grid.variants if name not in chosen]
    variants = {name: {**options, LEARNING_RATE: chosen[name]} for name, options in grid.variants.items() if name in chosen}
    if given.dry_run:  # a rate that is not chosen yet changes nothing of what a run costs
        variants |= {name: grid.variants[name] for name in without}
    return sweep(replace(final, variants=variants), rows=rows), without


def main() -> int:
    made = parser("Run an experiment and report it.")
    made.add_argument("--workers", type=int, default=2, help="runs at once (default 2)")
    made.add_argument("--only", nargs="+", metavar="VARIANT", help="these variants alone")
    made.add_argument("--seeds", type=int, metavar="N", help="the first so many seeds alone")
    made.add_argument("--minutes", type=float, help="stop after so long; the same command goes on")
    made.add_argument("--no_report", action="store_true", help="rows alone: no table that is looked at before a study's end")
    made.add_argument("--dry_run", action="store_true", help="print what would run, and how long it would take")
    given = parse(made)
    for name in ("workers", "seeds", "minutes"):
        if (value := getattr(given, name)) is not None and value <= 0:
            made.error(f"--{name} must be positive, got {value}")
    report = results(given)
    rates, rows = (report.with_name(f"{report.name}{end}.jsonl") for end in ("-rates", ""))
    try:
        with limited(given.minutes):
            failed, without = trained(given, rates, rows)
    except (SweepError, RecordError) as error:
        sys.exit(f"run.py: error: {error}")
    except KeyboardInterrupt:
        print("run.py: stopped; the same command goes on", file=sys.stderr)
        return 130
    if given.dry_run:
        if without:
            print(f"at the protocol's learning rate, until there are rows to choose one by: {', '.join(without)}")
        return failed
    for name in without:
        print(f"run.py: {name} is left out: its runs failed at every learning rate", file=sys.stderr)
    reported = 0 if given.no_report else uniex(["report", str(rows), "--output", str(report)])
    return reported or failed or bool(without)


if __name__ == "__main__":
    sys.exit(main())
