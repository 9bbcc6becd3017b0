"""``uniex report``: finished runs as a table and as curves."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from unified_extractor.analysis.records import RecordError, as_markdown, draw_curves, find_runs, formatted, results_table


def main(arguments: Sequence[str]) -> int:
    """Print the table of the runs in or below the given folders; write it and the curves. Returns the exit code."""
    parser = argparse.ArgumentParser("uniex report", description="Make a table and accuracy curves from finished runs.")
    parser.add_argument("folders", nargs="+", type=Path, help="run folders, or folders with runs below them")
    parser.add_argument(
        "--output", type=Path, help="folder for results.csv, results.md, curves.png (default report in the first folder)"
    )
    given = parser.parse_args(arguments)
    try:
        runs = find_runs(given.folders)
        results = results_table(runs)
        curves = draw_curves(runs)
        output = given.output or given.folders[0] / "report"
        output.mkdir(parents=True, exist_ok=True)
    except (RecordError, OSError) as error:
        parser.exit(2, f"uniex: error: {error}\n")
    text = formatted(results)
    table = Table(*text.columns)
    for row in text.values.tolist():
        table.add_row(*row)
    Console().print(table)
    results.to_csv(output / "results.csv", index=False)
    (output / "results.md").write_text(as_markdown(text))
    curves.savefig(output / "curves.png", dpi=130)
    print(f"written: {output}/results.csv, results.md, curves.png")
    return 0
