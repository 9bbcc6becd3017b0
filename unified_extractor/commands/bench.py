"""The command ``uniex bench``: the speed of the operator beside its baselines, and the cost of the networks."""

import argparse
import datetime
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from unified_extractor.benchmarks import compile_time, host, network_costs, training_input
from unified_extractor.benchmarks.cases import CPU_CASES, OURS, Case, gpu_cases
from unified_extractor.benchmarks.kernel_memory import KERNEL_MEMORY_CASES
from unified_extractor.benchmarks.measure import ValuesDifferError, measured
from unified_extractor.benchmarks.report import (
    as_table,
    limit_milliseconds,
    markdown,
    pass_floors,
    plan_markdown,
)
from unified_extractor.profiling.meters import CpuMeter, GpuMeter, GraphMeter, Meter, without_compiled, without_gpu

NOT_YET = "# Speed of the operator on a GPU\n\n*not yet run on a GPU*: this file has no measured times.\n\n"


def main(arguments: Sequence[str]) -> int:
    """Compare values, measure, print a table and write a result file. Return the exit code."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.plan and given.device != "gpu":
        parser.error("--plan is of the Triton kernels: uniex bench gpu --plan")
    if given.device == "models":
        return _models(given.output or Path("bench-models.json"), given.only, parser)
    if given.repeats < 1 or given.threads < 1 or given.batch < 1:
        parser.error(
            f"--repeats, --threads and --batch must be at least 1, got {given.repeats}, {given.threads} and {given.batch}"
        )
    if given.device == "train":
        if given.repeats < 2:
            parser.error(f"--repeats must be at least 2, the spread of a single measurement is unknown, got {given.repeats}")
        return _train(given, parser)
    if given.device == "host":
        return _host(given, parser)
    if given.device == "code":
        return _code(given, parser)
    if given.device == "floors":
        return _floors(given.output or Path("floors.md"), parser)
    if given.device == "kernel_memory" and (reason := without_compiled()):
        parser.exit(2, f"uniex: error: it measures the compiled backend: {reason}\n")
    if given.device == "gpu" and not given.plan and (reason := without_gpu()):
        parser.exit(2, f"uniex: error: {reason}. uniex bench gpu --plan writes what the kernels must move without one\n")
    output = given.output or (None if given.plan else Path(f"bench-{given.device}.json"))
    if output is not None:
        _check_output(output, parser, table_only=given.plan)
    of_device = {"cpu": lambda: CPU_CASES, "kernel_memory": lambda: KERNEL_MEMORY_CASES}
    every = of_device.get(given.device, lambda: gpu_cases(given.batch, "meta" if given.plan else "cuda"))()
    chosen = {name: every[name] for name in _chosen(every, given.only, parser)}
    try:
        if given.plan:
            _plan(chosen, given.batch, output)
            return 0
        assert output is not None
        if given.device in of_device:
            torch.set_num_threads(given.threads)
            _measure(chosen, CpuMeter(), given.repeats, output, {"compilation_seconds": compile_time.seconds()})
        else:
            _measure(chosen, GraphMeter(), given.repeats, output, {"batch": given.batch})
    except (ValuesDifferError, OSError) as error:
        parser.exit(1, f"uniex: error: {error}\n")
    except torch.OutOfMemoryError as error:  # the operator's own, or that of the exact values: a baseline's is noted in its row
        parser.exit(1, f"uniex: error: a smaller --batch is needed: {error}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("uniex bench", description="Time the operator beside its baselines.")
    parser.add_argument(
        "device",
        choices=["code", "cpu", "floors", "gpu", "host", "kernel_memory", "models", "train"],
        help="where to measure; code: compile the Triton kernels for a GPU that need not be there and count what they execute; "
        "floors: what binds these kernels, from the files of code and gpu in the folder of --output; "
        "host: the time of a call before it computes; kernel_memory: layers on the CPU that recompute their "
        "dynamic kernel, beside the same layers that store it; models: count the costs of the networks, measure nothing; "
        "train: the time to load training images, and a training step of the published frames beside the sum of its kernels' times",
    )
    parser.add_argument("--output", type=Path, help="result file, a table .md goes beside it (default bench-<device>.json)")
    parser.add_argument("--only", default="", metavar="WORD", help="only cases whose name holds this word")
    parser.add_argument("--repeats", type=int, default=25, help="measurements of every candidate (default 25)")
    parser.add_argument("--threads", type=int, default=2, help="cpu, host, kernel_memory, train: threads of torch (default 2)")
    parser.add_argument("--batch", type=int, default=128, help="gpu: images (default 128)")
    parser.add_argument(
        "--triton", type=Path, action="append", default=[], metavar="FOLDER", help="code: another Triton beside the installed one"
    )
    parser.add_argument(
        "--plan",
        action="store_true",
        help="gpu: measure nothing, list the least work of the kernels; with --output, as a .md table",
    )
    return parser


def _check_output(output: Path, parser: argparse.ArgumentParser, *, table_only: bool = False) -> None:
    """Raise an error for a result file that cannot be written, before minutes of work."""
    if output.suffix == ".md" and not table_only:
        parser.error(f"--output {output}: the table goes into this file, the result needs another name, such as .json")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        for file in (output, output.with_suffix(".md")):
            file.open("a").close()
            if not file.stat().st_size:
                file.unlink()
    except OSError as error:
        parser.exit(2, f"uniex: error: --output {output}: {error}\n")


def _chosen(names: Iterable[str], only: str, parser: argparse.ArgumentParser) -> list[str]:
    chosen = [name for name in names if only.lower() in name.lower()]
    if not chosen:
        parser.error(f"--only {only}: no case has this in its name; there are {'; '.join(names)}")
    return chosen


def _write(output: Path, result: dict[str, Any], table: str) -> None:
    """Write a result file with its table beside it, and print the table."""
    output.write_text(json.dumps(result, indent=1) + "\n")
    output.with_suffix(".md").write_text(table)
    print(f"{table}\nwritten: {output}, {output.with_suffix('.md').name}")


def _models(output: Path, only: str, parser: argparse.ArgumentParser) -> int:
    """Count every network, print the table and write both files. Return the exit code."""
    _check_output(output, parser)
    rows = [network_costs.counted(name) for name in _chosen(network_costs.FIGURES, only, parser)]
    _write(output, {"date": datetime.date.today().isoformat(), "networks": rows}, network_costs.markdown(rows))
    return 0


def _train(given: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Time the loading of training batches and the training steps, on the GPU if there is one. Return the exit code."""
    from unified_extractor.benchmarks import training_step  # here: it needs what training needs

    output = given.output or Path("bench-train.json")
    _check_output(output, parser)
    device = torch.device("cpu" if without_gpu() else "cuda")
    meter = CpuMeter() if device.type == "cpu" else GpuMeter()
    torch.set_num_threads(given.threads)
    frames = training_step.runnable(device)
    chosen = _chosen([*training_input.CASES, *frames], given.only, parser)
    result: dict[str, Any] = {"date": datetime.date.today().isoformat(), "machine": meter.machine(), "repeats": given.repeats}
    cases = [name for name in chosen if name in training_input.CASES]
    result["cases"] = [training_input.measured(name, training_input.CASES[name], given.repeats, meter, device) for name in cases]
    result["frames"] = [training_step.measured(name, frames[name], given.repeats, device) for name in chosen if name in frames]
    _write(output, result, training_input.markdown(result) + training_step.markdown(result["frames"], result["machine"]))
    return 0


def _host(given: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Time a tiny call of every backend. Return the exit code."""
    if given.only:
        parser.error(f"--only chooses among cases, and host has one, got --only {given.only}")
    output = given.output or Path("bench-host.json")
    _check_output(output, parser)
    torch.set_num_threads(given.threads)
    result: dict[str, Any] = {"date": datetime.date.today().isoformat(), "machine": CpuMeter().machine()}
    result |= host.measured(given.repeats)
    _write(output, result, host.markdown(result))
    return 0


def _code(given: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Compile the Triton kernels and count; a result file that is there keeps what was before. Return the exit code."""
    from unified_extractor.benchmarks.machine_code import report

    output = given.output or Path("bench-code.json")
    _check_output(output, parser)
    if missing := [str(folder) for folder in given.triton if not (folder / "triton").is_dir()]:
        parser.error(f"--triton must be a folder with the package triton, got {', '.join(missing)}")
    now = {"commit": _commit(), "kernels": report.compiled([None, *given.triton], given.only)}
    if not now["kernels"]:
        parser.error(f"--only {given.only}: no call has this in its name or dtype")
    before = json.loads(output.read_text())["before"] if output.exists() else now
    result = {"date": datetime.date.today().isoformat(), "architecture": report.ARCHITECTURE, "before": before, "now": now}
    _write(output, result, report.markdown(result))
    return 0


def _floors(output: Path, parser: argparse.ArgumentParser) -> int:
    """Write what binds the Triton kernels on a GPU. Return the exit code."""
    from unified_extractor.benchmarks import floors

    _check_output(output, parser, table_only=True)
    try:
        code, gpu = (json.loads(output.with_name(name).read_text()) for name in ("triton_code.json", "gpu.json"))
    except (OSError, ValueError) as error:
        parser.exit(2, f"uniex: error: floors are made from triton_code.json and gpu.json beside --output {output}: {error}\n")
    text = floors.markdown(code, gpu)
    output.with_suffix(".md").write_text(text)
    print(f"{text}\nwritten: {output.with_suffix('.md')}")
    return 0


def _commit() -> str:
    """Return the commit of the checkout, and whether it has changes, as text."""
    from unified_extractor.training.run.environment import commit

    found = commit()
    return "unknown" if found["commit"] is None else found["commit"][:12] + (" with changes" if found["dirty"] else "")


def _measure(cases: dict[str, Callable[[], Case]], meter: Meter, repeats: int, output: Path, more: dict[str, Any]) -> None:
    """Measure each case and print its table. The result file is written after each case, so that a failure loses no
    measurement."""
    result: dict[str, Any] = {"date": datetime.date.today().isoformat(), "machine": meter.machine(), **more}
    result |= {"repeats": repeats, "cases": []}
    for name, make in cases.items():
        torch.manual_seed(0)
        case = measured(name, make(), repeats, meter)
        result["cases"].append(case)
        output.write_text(json.dumps(result, indent=1) + "\n")
        output.with_suffix(".md").write_text(markdown(result))
        Console().print(_table(case, result["machine"]))
    print(f"written: {output}, {output.with_suffix('.md').name}")


def _plan(cases: dict[str, Callable[[], Case]], batch: int, output: Path | None) -> None:
    text = NOT_YET + plan_markdown(cases, batch)
    print(text)
    if output is not None:
        output.with_suffix(".md").write_text(text)
        print(f"written: {output.with_suffix('.md')}")


def _table(case: dict[str, Any], machine: dict[str, Any]) -> Table:
    """Return the columns that fit into a terminal; the result file has all of them."""
    text, limit = as_table(case, pass_floors(case, machine)), limit_milliseconds(case, machine)
    text = text.drop(columns=["20-80 %", "both %", "difference"], errors="ignore")
    title = case["name"] + (f" (at the machine's rates {limit:.2g} ms)" if limit else "")
    table = Table(*text.columns, title=title, title_justify="left", box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    table.columns[0].min_width, table.columns[0].overflow = len(OURS), "fold"
    for row in text.values.tolist():
        table.add_row(*row)
    return table
