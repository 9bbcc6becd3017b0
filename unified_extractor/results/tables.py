"""Tables of rows: numbers in a data frame, the same as text for people, and that text as Markdown, LaTeX or on a terminal."""

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from rich.table import Table
from rich.text import Text

from unified_extractor.results.choosing import TEST_FIGURES, chooses
from unified_extractor.results.groups import check_one_group
from unified_extractor.results.record import Record
from unified_extractor.results.training_settings import differing

RESULTS = (
    "variant",
    "seed",
    "parameters",
    "multiply_adds",
    "val_miou",
    "test_miou",
    "val_accuracy",
    "test_accuracy",
    "test_top5_accuracy",
    "test_loss",
    "test_calibration_error",
    "seconds_per_epoch",
    "peak_memory_bytes",
    "name",
    "run",
)
_ABSENT = "-"
_PERCENT = ("val_miou", "test_miou", "val_accuracy", "test_accuracy", "test_top5_accuracy", "test_calibration_error")
_OWN: dict[str, tuple[str, Callable[[Any], str]]] = {
    "class_iou": ("IoU", "{:.2%}".format),
    "parameters": ("parameters", "{:,}".format),
    "multiply_adds": ("multiply-adds", "{:,}".format),
    "seconds_per_epoch": ("s/epoch", "{:.2f}".format),
    "peak_memory_bytes": ("peak memory (MiB)", lambda size: f"{size / 2**20:,.0f}"),
    "learning_rate": ("learning rate", "{:g}".format),
    "train_images": ("training images", "{:,}".format),
    "error_reduction": ("error reduction", "{:+.1%}".format),
    "p_holm": ("p (Holm)", lambda value: f"{value:.4f}" if value >= 1e-4 else "< 0.0001"),
}
"""The columns with a heading and a form of their own."""
_HIDDEN = ("name", "run", "baseline", "comparisons")
_SUFFIXES = {"_half_width": ("±", ""), "_difference": ("difference", "+")}
_INTERVALS = {"_sample": "95 % interval, test images too", "": "95 % interval"}
"""The headings of intervals, by what follows the metric in the names of their columns."""
_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"±": r"$\pm$", "<": r"$<$", ">": r"$>$", "|": r"$|$"}
)


def results_table(rows: Sequence[Record]) -> pd.DataFrame:
    """Return a table with a line a run, in the order given; accuracies are fractions. Raise ``RecordError`` for rows of several groups.

    Where the runs were not trained alike, columns say how, see :func:`differing`.
    """
    check_one_group(rows)
    place = RESULTS.index("seed") + 1
    columns = [*RESULTS[:place], *differing(rows), *RESULTS[place:]]
    table = pd.DataFrame([{field: getattr(row, field) for field in columns} for row in rows], columns=columns)
    absent = [name for name in ("val_miou", *TEST_FIGURES) if name in table and not table[name].notna().any()]
    if not chooses(rows[0].budget):  # a run that is not finished has a dash in the columns that finished ones of its task have
        absent = [name for name in absent if name in _of_other_tasks(rows[0])]
    return table.drop(columns=absent)


def _of_other_tasks(row: Record) -> tuple[str, ...]:
    """Return the columns of results that runs of a row's task never have, or not always."""
    return ("test_top5_accuracy", *(("val_miou", "test_miou") if row.score == "accuracy" else ("test_calibration_error",)))


def formatted(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of results, of a summary or of differences as text for people: percent, thousands separated.

    A variant's name stays as it is; a run's own name and number are left out.
    """
    text: dict[str, list[str]] = {}
    for column in table.columns.drop(list(_HIDDEN), errors="ignore"):
        if column.endswith("_low"):
            interval = column.removesuffix("_low")
            over = next(over for over in _INTERVALS if interval.endswith(over))
            show = _style(interval.removesuffix(over) + "_difference")[1]
            ends = zip(table[column], table[f"{interval}_high"], strict=True)
            text[_INTERVALS[over]] = [_ABSENT if pd.isna(low) else f"{show(low)} to {show(high)}" for low, high in ends]
        elif not column.endswith("_high"):
            header, show = _style(column)
            text[header] = [_ABSENT if pd.isna(value) else show(value) for value in table[column]]
    return pd.DataFrame(text)


def as_latex(text: pd.DataFrame, caption: str) -> str:
    """Return a table of text in LaTeX, all characters escaped. It needs the package booktabs."""
    escaped = text.map(lambda value: str(value).translate(_LATEX)).rename(columns=lambda name: name.translate(_LATEX))
    return escaped.style.hide(axis="index").to_latex(
        column_format="l" + "r" * (len(text.columns) - 1),
        caption=caption.translate(_LATEX),
        position_float="centering",
        hrules=True,
    )


def as_rich(text: pd.DataFrame, caption: str = "") -> Table:
    """Return a table of text for a terminal, below its caption."""
    table = Table(title=Text(caption) if caption else None, title_justify="left")
    for index, name in enumerate(text.columns):
        table.add_column(Text(str(name)), justify="right" if index else "left")
    for row in text.values.tolist():
        table.add_row(*(Text(str(value)) for value in row))
    return table


def is_percentage(metric: str) -> bool:
    """Return whether people read a metric as a percentage, and its differences as points."""
    return metric in _PERCENT


def as_difference(value: float, metric: str) -> str:
    """Return a difference of a metric as a text calls it, such as ``0.5 points``."""
    if not is_percentage(metric):
        return f"{value:.2g}"
    amount = f"{100 * value:.2f}".rstrip("0").rstrip(".")
    return f"{amount} point{'s' * (amount != '1')}"


def in_words(field: str) -> str:
    """Return the name of a row's field as a text calls it."""
    return field.replace("top5", "top-5").replace("miou", "mIoU").replace("_", " ")


def _style(column: str) -> tuple[str, Callable[[Any], str]]:
    """Return the heading of a column and the function that writes its values. Differences of percentages are points."""
    if column in _OWN:
        return _OWN[column]
    for suffix, (heading, sign) in _SUFFIXES.items():
        if column.removesuffix(suffix) in _PERCENT and column.endswith(suffix):
            return f"{heading} (points)", lambda value, sign=sign: format(100 * value, f"{sign}.2f")
        if column.endswith(suffix):
            return heading, f"{{:{sign}.4f}}".format
    if column in _PERCENT:
        return in_words(column), "{:.2%}".format
    return in_words(column), "{:.4f}".format if column.endswith("loss") else str
