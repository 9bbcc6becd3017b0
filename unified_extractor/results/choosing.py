"""Runs by which something is chosen, such as a learning rate: no test image has a say in that, so their rows have no test figures."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from unified_extractor.results.record import Record

TEST_FIGURES = (
    "test_accuracy",
    "test_top5_accuracy",
    "test_loss",
    "test_calibration_error",
    "test_correct",
    "test_miou",
    "test_class_iou",
    "test_overlaps",
)
"""The fields of a row that are null where no test image was looked at."""


def chooses(budget: str) -> bool:
    """Return whether runs of this budget are made to choose something: it is called ``screen``, or ``gpu_screen`` and the like."""
    return budget.rpartition("_")[2] == "screen"


def without_test_figures(rows: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """Return the rows without the test figures that choosing runs have from before the rule, and a text that says how many had some."""
    choosing = [row for row in rows if chooses(row.budget)]
    budgets = [row.budget for row in choosing if any(getattr(row, field) is not None for field in TEST_FIGURES)]
    found = [as_untested(row) if chooses(row.budget) else row for row in rows]
    if not budgets:
        return found, []
    runs = f"{len(budgets)} run{'s' * (len(budgets) > 1)} of the budget {', '.join(sorted(set(budgets)))}"
    return found, [f"the test figures of {runs}, by which something is chosen"]


def as_untested(row: Record) -> Record:
    """Return a row without its test figures."""
    nothing: dict[str, Any] = dict.fromkeys(TEST_FIGURES)
    return replace(row, test_images=0, **nothing)
