"""The command ``uniex sweep``: variants x settings x seeds, where each cell is a ``uniex fit`` command."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from rich.console import Console

from unified_extractor.recipes import as_file
from unified_extractor.results.record import RecordError
from unified_extractor.sweeps.cell import LOGS
from unified_extractor.sweeps.cluster import Cluster, check_system, make_executor
from unified_extractor.sweeps.grid import Grid, SweepError, read_grid
from unified_extractor.sweeps.kept_rows import KeptRows
from unified_extractor.sweeps.plan import PlannedCell, commands, extractor_lines, plan_cells, plan_table, plan_total
from unified_extractor.sweeps.progress import Progress
from unified_extractor.sweeps.running import Failure, Sweep

_WIDTH = 160


def main(arguments: Sequence[str]) -> int:
    """Plan a grid, print the plan and run the unfinished cells. Return 0 if every cell has its record, 1 if one failed, 2
    for a mistake."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.workers < 1 or given.retries < 0:
        parser.error(f"--workers must be at least 1 and --retries at least 0, got {given.workers} and {given.retries}")
    if given.slurm and given.cluster != "slurm":
        parser.error("--slurm is of --cluster slurm alone")
    if given.reuse and given.rows is None:
        parser.error("--reuse adds rows to the file of --rows, which is not given")
    try:
        return run_sweep(
            read_grid(as_file(given.grid)),
            rows=given.rows,
            reuse=given.reuse,
            workers=given.workers,
            cluster=given.cluster,
            retries=given.retries,
            slurm=dict(given.slurm),
            dry_run=given.dry_run,
            with_commands=given.commands,
        )
    except (SweepError, RecordError) as error:
        parser.exit(2, f"uniex: error: {error}\n")
    except KeyboardInterrupt:
        print("uniex: interrupted; the same command goes on", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("uniex sweep", description="Train every cell of a grid: variants x settings x seeds.")
    parser.add_argument("grid", type=Path, help="a YAML file with name, config, variants, seeds, and settings; or a recipe")
    parser.add_argument("--dry_run", action="store_true", help="print cells, states and estimated cost, do nothing")
    parser.add_argument(
        "--workers", type=int, default=1, help="cells at once, those of another sweep of this grid included (default 1)"
    )
    parser.add_argument("--cluster", choices=["local", "slurm", "debug"], default="local", help="where (default local)")
    parser.add_argument("--commands", action="store_true", help="print the command of every cell too")
    parser.add_argument("--retries", type=int, default=1, help="new starts of a cell that failed (default 1)")
    parser.add_argument(
        "--rows", type=Path, metavar="FILE.jsonl", help="keeps the rows of finished cells; what has a row there is not run again"
    )
    parser.add_argument(
        "--reuse",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE.jsonl",
        help="rows of other sweeps: a run of the same configuration counts as the cell's and is added to --rows",
    )
    parser.add_argument(
        "--slurm", type=_setting, action="append", default=[], metavar="KEY=VALUE", help="for sbatch: partition=gpu, time=60"
    )
    return parser


def run_sweep(
    grid: Grid,
    *,
    rows: Path | None = None,
    reuse: Sequence[Path] = (),
    workers: int = 1,
    cluster: Cluster = "local",
    retries: int = 1,
    slurm: Mapping[str, Any] = MappingProxyType({}),
    dry_run: bool = False,
    with_commands: bool = False,
) -> int:
    """Plan a grid, print the plan and, unless it is a ``dry_run``, run the unfinished cells. The other arguments are the
    command's.

    Return 0 if every cell has its record, 1 if one failed. Raise ``SweepError`` or ``RecordError`` for a mistake.
    """
    check_system()
    kept = KeptRows(rows, reuse)
    cells = plan_cells(grid, elsewhere=dry_run or cluster == "slurm", kept=kept)
    _print_plan(cells, workers, with_commands)
    folder = Path(grid.root) / grid.name
    if dry_run:
        return 0
    failures: list[Failure] = []
    if any(planned.state != "finished" for planned in cells):
        executor = make_executor(cluster, folder / LOGS / "submitit", workers=workers, slurm=slurm)
        with Progress(cells, workers=workers, console=Console()) as progress:
            failures = Sweep(
                cells, executor, cluster=cluster, workers=workers, retries=retries, progress=progress, kept=kept
            ).run()
    for planned in cells:  # those that were finished before
        kept.add(planned.cell)
    return _print_end(cells, failures, rows or folder)


def _print_plan(cells: Sequence[PlannedCell], workers: int, with_commands: bool) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)  # a file or a pipe has no width: no cell's name is cut
    console.print(plan_table(cells))
    if lines := extractor_lines(cells):
        print("\n".join(["extractors", *(f"  {line}" for line in lines)]))
    print(plan_total(cells, workers))
    if with_commands:
        print("\n".join(commands(cells)))
    sys.stdout.flush()


def _print_end(cells: Sequence[PlannedCell], failures: Sequence[Failure], rows: Path) -> int:
    """Print the unfinished cells, or that every cell has its row."""
    without = [planned.cell for planned in cells if planned.cell.state() != "finished"]
    for failure in failures:
        print(f"uniex: failed: {failure}", file=sys.stderr)
    for cell in without:
        if cell.name not in {failure.cell.name for failure in failures}:
            print(f"uniex: missing: {cell.point}: no record in {cell.run.path}", file=sys.stderr)
    print(f"{len(cells) - len(without)} of {len(cells)} cells have their record; their table: uniex report {rows}")
    return 1 if without else 0


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE, got {text!r}")
    return name, yaml.safe_load(value)
