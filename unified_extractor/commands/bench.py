"""``uniex bench``: how fast the operator is beside what a user would otherwise run."""

import argparse
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from unified_extractor.benchmarks import compilation
from unified_extractor.benchmarks.cases import CPU_CASES
from unified_extractor.benchmarks.measure import ValuesDifferError, machine, measured
from unified_extractor.benchmarks.report import as_table, limit_milliseconds, markdown


def main(arguments: Sequence[str]) -> int:
    """Compare values, measure, print a table and write a result file. Returns the exit code."""
    parser = argparse.ArgumentParser("uniex bench", description="Time the operator beside what a user would otherwise run.")
    parser.add_argument("device", choices=["cpu"], help="where to measure")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("bench-cpu.json"),
        help="result file, a table .md goes beside it (default bench-cpu.json)",
    )
    parser.add_argument("--repeats", type=int, default=25, help="measurements of every candidate (default 25)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default 2)")
    parser.add_argument("--only", default="", metavar="WORD", help="only cases whose name holds this word")
    given = parser.parse_args(arguments)
    if given.repeats < 1 or given.threads < 1:
        parser.error(f"--repeats and --threads must be at least 1, got {given.repeats} and {given.threads}")
    try:
        given.output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # before minutes of measuring
        parser.exit(2, f"uniex: error: --output {given.output}: {error}\n")
    torch.set_num_threads(given.threads)
    made = {name: make for name, make in CPU_CASES.items() if given.only.lower() in name.lower()}
    if not made:
        parser.error(f"--only {given.only}: no case has this in its name; there are {', '.join(CPU_CASES)}")
    result: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "compilation_seconds": compilation.seconds(),
        "repeats": given.repeats,
        "cases": [],
    }
    try:
        for name, make in made.items():
            torch.manual_seed(0)
            case = measured(name, make(), given.repeats)
            result["cases"].append(case)
            given.output.write_text(json.dumps(result, indent=1) + "\n")  # what is measured is kept, whatever happens to the rest
            given.output.with_suffix(".md").write_text(markdown(result))
            Console().print(_table(case, limit_milliseconds(case, result["machine"])))
    except (ValuesDifferError, OSError) as error:
        parser.exit(1, f"uniex: error: {error}\n")
    print(f"written: {given.output}, {given.output.with_suffix('.md').name}")
    return 0


def _table(case: dict[str, Any], limit: float | None) -> Table:
    text = as_table(case)
    table = Table(title=case["name"] + (f" (at the machine's rates {limit:.2g} ms)" if limit else ""), title_justify="left")
    for column in text.columns:
        table.add_column(column, no_wrap=True)
    for row in text.values.tolist():
        table.add_row(*row)
    return table
