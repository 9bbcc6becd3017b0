"""Measure an experiment's networks, and draw their accuracy against it: inference of one image, and a training step of a batch.

    python experiments/latency.py 01_unified --grid finals        (some minutes; nothing else may run)

Writes results/<name>-latency.json and, if there are rows, results/<name>/accuracy_{inference,training}.png.
"""

import copy
import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from run import HERE, at_budget, parse, parser, results
from torch import Tensor

from unified_extractor.profiling.latency import in_turns, percentiles
from unified_extractor.profiling.meters import CpuMeter, GpuMeter
from unified_extractor.results.choosing import chooses
from unified_extractor.results.naming import renamed
from unified_extractor.results.record import read_rows
from unified_extractor.sweeps.cell import arguments_without_name
from unified_extractor.sweeps.grid import Grid, SweepError, points, read_grid
from unified_extractor.training.cli.planned_run import PlannedRun, planned
from unified_extractor.training.errors import ConfigurationError
from unified_extractor.visualize.result_figures import draw_accuracy_cost

REPEATS = 60
WORKLOADS = {"inference": "ms of one image, inference", "training": "ms of a training step"}


def networks(grid: Grid) -> dict[str, PlannedRun]:
    """Return the run of every variant, as ``fit`` would begin it."""
    runs: dict[str, PlannedRun] = {}
    for point in points(grid):
        if point.variant not in runs:
            after = next(reversed(runs.values()), None)
            runs[point.variant] = planned([*arguments_without_name(grid, point), f"--run.name={grid.name}"], after=after)
    return runs


def workloads(run: PlannedRun, device: torch.device) -> dict[str, Callable[[], Any]]:
    """Return what is timed of a network, by name: forward of one image, and forward, backward and the optimizer's step of a batch.

    A training step has the optimizer and the precision of the run.
    """
    layout, data = run.module.image_format, run.data
    network = run.module.network.to(device).train()
    tested = copy.deepcopy(network).eval()
    optimizer = run.module.optimization.build(network, fused=True)
    image, batch = (
        torch.randn(count, *data.image_shape, device=device).contiguous(memory_format=layout) for count in (1, data.batch_size)
    )
    labels = torch.arange(data.batch_size, device=device) % len(data.class_names)

    def infer() -> Tensor:
        with torch.inference_mode():
            return tested(image)

    def train() -> None:
        optimizer.zero_grad()
        with run.trainer.precision_plugin.train_step_context():
            loss = F.cross_entropy(network(batch), labels)
        loss.backward()
        optimizer.step()

    return {"inference": infer, "training": train}


def measured(grid: Grid) -> dict[str, Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    meter = GpuMeter() if device.type == "cuda" else CpuMeter()
    runs = networks(grid)
    timed = {(name, what): do for name, run in runs.items() for what, do in workloads(run, device).items()}
    times: dict[str, dict[str, Any]] = {name: {} for name in runs}
    for (name, what), values in in_turns(timed, REPEATS, meter).items():
        times[name][what] = percentiles(values)
    batch = next(iter(runs.values())).data.batch_size
    return {
        "date": f"{datetime.now(UTC):%F}",
        "machine": meter.machine(),
        "batch": batch,
        "repeats": REPEATS,
        "milliseconds": times,
    }


def main() -> int:
    made = parser("Measure an experiment's networks, and draw their accuracy against their time.")
    made.add_argument("--rename", nargs="+", default=[], metavar="FORMER=NAME", help="other names of variants in the pictures")
    given = parse(made)
    report = results(given)
    path = report.with_name(f"{report.name}-latency.json")
    path.parent.mkdir(exist_ok=True)
    try:
        grid = at_budget(read_grid(HERE / given.experiment / f"{given.grid}.yaml"), given.budget, given)
        path.write_text(json.dumps(measured(grid), indent=1) + "\n")
    except (ConfigurationError, SweepError) as error:
        sys.exit(f"latency.py: error: {error}")
    print(f"written: {path}")
    draw(path, report, given.rename)
    return 0


def draw(path: Path, report: Path, rename: Sequence[str] = ()) -> None:
    """Draw accuracy against both times, if there are rows."""
    source, found = report.with_suffix(".jsonl"), json.loads(path.read_text())
    if not source.exists():
        return
    former = read_rows([source])
    rows = renamed(former, rename)
    names = {old.variant: new.variant for old, new in zip(former, rows, strict=True)}
    report.mkdir(exist_ok=True)
    threads = found["machine"].get("threads")
    where = found["machine"]["device"] + (f", {threads} thread{'s' * (threads > 1)}" if threads else "")
    for what, words in WORKLOADS.items():
        costs = {names.get(variant, variant): times[what]["median"] for variant, times in found["milliseconds"].items()}
        metric = f"{'val' if chooses(rows[0].budget) else 'test'}_{rows[0].score}"
        figure = draw_accuracy_cost(rows, metric, costs=costs, cost=f"{words} ({where})")
        figure.savefig(report / f"accuracy_{what}.png", dpi=130)
        print(f"written: {report}/accuracy_{what}.png")


if __name__ == "__main__":
    sys.exit(main())
