"""Figures of finished runs, for notebooks and scripts: those of ``uniex report``."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from unified_extractor.results.choosing import chooses, without_test_figures
from unified_extractor.results.comparison import Comparison, compare
from unified_extractor.results.forest import draw_forest
from unified_extractor.results.groups import check_one_group, title
from unified_extractor.results.intervals import draw_ranking
from unified_extractor.results.naming import chosen
from unified_extractor.results.record import Record
from unified_extractor.results.sources import find_rows
from unified_extractor.results.training_settings import told_apart, without_repeats
from unified_extractor.visualize.result_figures import draw_accuracy_cost, draw_curves

Runs = str | Path | Sequence[str | Path]
"""A run's folder, a folder with runs below it, a file of rows (``*.jsonl``), or several of these."""


def curves(runs: Runs, *, variants: Sequence[str] | None = None) -> Figure:
    """Return a figure of the learning curves: validation accuracy or mIoU, validation and training loss.

    Args:
        runs: runs of one data set and budget.
        variants: only these, in this order.

    Raises:
        ValueError: there is no run, or they cannot be compared; the message says why.
    """
    return draw_curves(rows_of(runs, variants))


def forest(
    runs: Runs,
    *,
    baseline: str | None = None,
    metric: str | None = None,
    variants: Sequence[str] | None = None,
    roles: Mapping[str, str] | None = None,
) -> Figure:
    """Return a figure of every variant's difference from a baseline, with 95 % intervals that hold for all of them at once.

    Args:
        runs: finished runs of one data set and budget, at least two seeds of a variant.
        baseline: variant that the others are compared with; None: the first.
        metric: what is compared; None: test accuracy or mIoU, of validation for runs that choose.
        variants: only these.
        roles: roles of variants by name, such as ``{"depthwise": "control"}``; each has a color.

    Raises:
        ValueError: there is no run, they cannot be compared, or no variant has an interval.
    """
    rows = rows_of(runs, variants)
    comparison: Comparison = compare(rows, baseline=baseline, metric=metric or _metric(rows))
    if not comparison.compared:
        reasons = "; ".join(f"{variant}: {reason}" for variant, reason in comparison.reasons.items()) or "there is one variant"
        raise ValueError(f"no difference has an interval: {reasons}")
    return draw_forest(comparison, title(rows), roles=roles)


def ranking(runs: Runs, *, metric: str | None = None, variants: Sequence[str] | None = None) -> Figure:
    """Return a figure of every variant's mean with its 95 % interval, the best on top. Arguments and errors as in :func:`forest`."""
    rows = rows_of(runs, variants)
    return draw_ranking(rows, metric or _metric(rows))


def accuracy_cost(runs: Runs, *, metric: str | None = None, variants: Sequence[str] | None = None) -> Figure:
    """Return a figure of accuracy against multiply-adds, a point for each variant. Arguments and errors as in :func:`forest`."""
    rows = rows_of(runs, variants)
    return draw_accuracy_cost(rows, metric or _metric(rows))


def rows_of(runs: Runs, variants: Sequence[str] | None = None) -> list[Record]:
    """Return the rows of finished runs; of a run that was repeated the last one, as in ``uniex report``.

    Raises:
        ValueError: there is none, or they are of several data sets or budgets.
    """
    sources = [runs] if isinstance(runs, str | Path) else runs
    rows = without_test_figures(without_repeats(find_rows([Path(source) for source in sources]))[0])[0]
    check_one_group(rows)
    return told_apart(chosen(rows, variants) if variants else rows)


def _metric(rows: Sequence[Record]) -> str:
    return f"{'val' if chooses(rows[0].budget) else 'test'}_{rows[0].score}"
