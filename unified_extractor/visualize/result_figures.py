"""Figures of results: learning curves, gradient norms, and accuracy against cost."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from unified_extractor.results.groups import by_variant, title
from unified_extractor.results.record import EpochMetrics, Record, RecordError
from unified_extractor.results.statistics import summary
from unified_extractor.results.tables import in_words
from unified_extractor.visualize.label_placement import label_points


def draw_curves(rows: Sequence[Record]) -> Figure:
    """Draw validation accuracy and both losses against the epoch, one line for each variant.

    With several seeds the line is their mean and a band reaches from the lowest to the highest.

    Raises:
        RecordError: the rows cannot be compared, see :func:`by_variant`.
    """
    variants = by_variant(rows)
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    accuracy, loss = figure.subplots(1, 2)
    handles = _handles(variants)
    for color, own in zip(_colors(len(variants)), variants.values(), strict=True):
        _draw(accuracy, own, attrgetter("val_accuracy"), 100, color=color)
        _draw(loss, own, attrgetter("val_loss"), 1, color=color)
        _draw(loss, own, attrgetter("train_loss"), 1, color=color, linestyle="--")
    accuracy.set(ylabel="validation accuracy (%)")
    loss.set(ylabel="cross entropy")
    loss.legend(
        handles=[Line2D([], [], color="gray", ls=ls, label=name) for ls, name in (("-", "validation"), ("--", "training"))]
    )
    for axis in (accuracy, loss):
        axis.set(xlabel="epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    several = any(len(own) > 1 for own in variants.values())
    figure.suptitle(title(rows) + (": mean over seeds, band from lowest to highest" if several else ""), fontsize=10)
    longest = max(len(str(handle.get_label())) for handle in handles)
    figure.legend(handles=handles, loc="outside lower center", ncols=max(1, min(4, 140 // (longest + 10))), fontsize=9)
    return figure


def draw_gradient_norms(rows: Sequence[Record]) -> Figure:
    """Draw the mean gradient norm of each stage, before clipping, against the epoch: a panel for each stage, a line for each
    variant.

    With several seeds the line is their mean and a band reaches from the lowest to the highest.

    Raises:
        RecordError: the rows cannot be compared, see :func:`by_variant`, or one has no gradient norms of as many stages as the first.
    """
    variants = by_variant(rows)
    stages = len(rows[0].curve[0].gradient_norms or ()) if rows[0].curve else 0
    for row in rows:
        if not stages or any(len(point.gradient_norms or ()) != stages for point in row.curve):
            raise RecordError(f"{row.place} has no gradient norms of {stages or 'its'} stages")
    figure = Figure(figsize=(3.6 * stages + 0.4, 4), layout="constrained")
    axes = figure.subplots(1, stages, squeeze=False, sharey=True)[0]
    for color, own in zip(_colors(len(variants)), variants.values(), strict=True):
        for stage, axis in enumerate(axes):
            _draw(axis, own, partial(_gradient_norm, stage=stage), 1, color=color)
    for stage, axis in enumerate(axes, 1):
        axis.set(xlabel="epoch", title=f"stage {stage}", yscale="log")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("norm of the gradients")
    figure.suptitle(title(rows), fontsize=10)
    figure.legend(handles=_handles(variants), loc="outside lower center", ncols=4, fontsize=9)
    return figure


def draw_accuracy_cost(
    rows: Sequence[Record],
    metric: str = "test_accuracy",
    *,
    costs: Mapping[str, float] | None = None,
    cost: str = "multiply-adds of an image",
) -> Figure:
    """Draw a metric against a cost, one labeled point for each variant; bars are 95 % t-intervals over seeds, absent with one
    seed.

    Variants ``name@size`` with the same name are one extractor at several sizes: a line connects their points, labeled once.

    Args:
        rows: records of one group.
        metric: field of the records that is shown.
        costs: cost of each variant, by name; by default its multiply-adds.
        cost: label of the cost's axis.

    Raises:
        RecordError: the rows cannot be compared, see :func:`by_variant`, a row lacks the metric, or a variant has no cost.
    """
    table = summary(rows, metric)
    if costs is not None:
        if missing := [variant for variant in table["variant"] if variant not in costs]:
            raise RecordError(f"there is no cost of {', '.join(missing)}")
        table["cost"] = [costs[variant] for variant in table["variant"]]
    percent = metric.endswith(("accuracy", "error"))
    scale = 100 if percent else 1
    along = "multiply_adds" if costs is None else "cost"
    places, means, bars = (table[name].to_numpy(float) for name in (along, metric, f"{metric}_half_width"))
    means, bars = scale * means, scale * bars
    extractors = table["variant"].str.partition("@")[0]
    color_of = dict(zip(extractors.unique(), _colors(extractors.nunique()), strict=True))
    colors = [color_of[extractor] for extractor in extractors]
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axis = figure.subplots()
    for color, place, mean, bar in zip(colors, places, means, bars, strict=True):
        axis.errorbar(place, mean, yerr=None if np.isnan(bar) else bar, fmt="o", capsize=4, color=color)
    if places.min() > 0 and places.max() > 10 * places.min():
        axis.set_xscale("log")
    else:
        axis.xaxis.set_major_formatter(EngFormatter())
    axis.margins(0.18, 0.12)
    if len(color_of) < len(table):  # labels at the ends of lines lie to their right
        axis.margins(x=0.05)
        axis.autoscale_view()
        axis.set_xlim(right=axis.transData.inverted().transform(axis.transAxes.transform((1.4, 0)))[0])
    axis.set(xlabel=cost, ylabel=in_words(metric) + (" (%)" if percent else ""))
    bars_in_words = ": mean over seeds, bars are 95 % t-intervals" if not np.isnan(bars).all() else ""
    axis.set_title(title(rows) + bars_in_words, fontsize=10)
    axis.grid(alpha=0.3)
    labels = [""] * len(table)
    for extractor, color in color_of.items():
        sizes = sorted(np.flatnonzero(extractors == extractor), key=places.__getitem__)
        axis.plot(places[sizes], means[sizes], color=color, linewidth=1.2, alpha=0.6)
        labels[sizes[-1]] = extractor
    label_points(axis, labels, places, means, np.nan_to_num(bars), colors)
    return figure


def _gradient_norm(point: EpochMetrics, *, stage: int) -> float:
    assert point.gradient_norms is not None
    return point.gradient_norms[stage]


def _handles(variants: Mapping[str, Sequence[Record]]) -> list[Line2D]:
    """Return the lines of a legend, one for each variant."""
    return [
        Line2D([], [], color=color, marker=".", label=f"{variant} ({len(own)} seeds)" if len(own) > 1 else variant)
        for color, (variant, own) in zip(_colors(len(variants)), variants.items(), strict=True)
    ]


def _draw(axis: Axes, rows: Sequence[Record], value: Callable[[Any], float], scale: float, **style: Any) -> None:
    """Draw the mean of a value at the epochs that all rows have, and the range over the rows."""
    curves = [pd.Series({point.epoch: scale * value(point) for point in row.curve}, dtype=float) for row in rows]
    table = pd.concat(curves, axis=1, join="inner").sort_index()
    axis.plot(table.index, table.mean(axis=1), marker=".", markersize=4, linewidth=1.4, **style)
    if len(rows) > 1:
        axis.fill_between(table.index, table.min(axis=1), table.max(axis=1), color=style["color"], alpha=0.15, linewidth=0)


def _colors(count: int) -> list[Any]:
    return (
        [colormaps["tab10"](i) for i in range(count)] if count <= 10 else list(colormaps["turbo"](np.linspace(0.05, 0.95, count)))
    )
