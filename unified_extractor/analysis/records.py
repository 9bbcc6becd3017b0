"""Finished runs: their records as a table, their logged metrics as curves. Every number comes from a run folder's files."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

RECORD, METRICS = "record.json", "metrics.csv"
FIELDS = ("name", "parameters", "multiply_adds", "val_accuracy", "test_accuracy", "seconds_per_epoch")
"""What a table needs of a record."""


class RecordError(ValueError):
    """A run folder without a usable record; the message names the file."""


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """The run folders with a record in or below the given folders, sorted. Raises ``RecordError`` if a folder has none."""
    found: list[Path] = []
    for folder in folders:
        runs = sorted(path.parent for path in folder.rglob(RECORD))
        if not runs:
            raise RecordError(f"{folder}: no {RECORD} in or below it" if folder.exists() else f"{folder}: no such folder")
        found += [run for run in runs if run not in found]
    return found


def read_record(run: Path) -> dict[str, Any]:
    """The record of a run folder. Raises ``RecordError`` if it is unreadable or lacks a field."""
    path = run / RECORD
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: not a record: {error}") from error
    if missing := [name for name in FIELDS if name not in record]:
        raise RecordError(f"{path}: not a record: it has no {missing[0]!r}")
    return record


def results_table(runs: Sequence[Path]) -> pd.DataFrame:
    """One row a run in the order given: name, parameters, multiply-adds, accuracies as fractions, seconds an epoch."""
    return pd.DataFrame([{name: record[name] for name in FIELDS} for record in map(read_record, runs)], columns=list(FIELDS))


def formatted(table: pd.DataFrame) -> pd.DataFrame:
    """The table for people: names without the folder they share, thousands separated, accuracies in percent. All values are text."""
    styles = {
        "parameters": "{:,}",
        "multiply_adds": "{:,}",
        "val_accuracy": "{:.2%}",
        "test_accuracy": "{:.2%}",
        "seconds_per_epoch": "{:.2f}",
    }
    text = table.astype(object)
    shared = len(os.path.commonpath([Path(name).parent for name in table["name"]])) if len(table) else 0
    text["name"] = [name[shared:].lstrip("/").replace("_", " ") for name in table["name"]]
    for column, style in styles.items():
        text[column] = [style.format(value) for value in table[column]]
    return text.rename(columns={"seconds_per_epoch": "s/epoch", "val_accuracy": "best val accuracy"}).rename(
        columns=lambda name: name.replace("_", " ")
    )


def as_markdown(text: pd.DataFrame) -> str:
    """A Markdown table of a table of text; the first column to the left, numbers to the right."""
    rows = [list(text.columns), [":--"] + ["--:"] * (len(text.columns) - 1), *text.values.tolist()]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows) + "\n"


def draw_curves(runs: Sequence[Path]) -> Figure:
    """Validation accuracy after every epoch, one line a run."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axis = figure.subplots()
    for run in runs:
        record = read_record(run)
        path = run / METRICS
        if not path.is_file():
            raise RecordError(f"{path}: no such file")
        try:
            accuracy = pd.read_csv(path).dropna(subset="val/accuracy")
        except (ValueError, KeyError) as error:
            raise RecordError(f"{path}: not a log of validation accuracy: {error}") from error
        label = f"{record['name'].rsplit('/')[-1].replace('_', ' ')} ({record['test_accuracy']:.1%})"
        axis.plot(accuracy["epoch"] + 1, 100 * accuracy["val/accuracy"], marker=".", label=label)
    axis.set(xlabel="epoch", ylabel="validation accuracy (%)", title="in brackets: test accuracy of the best epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return figure
