"""Figures of results: learning curves, gradient norms, and accuracy against cost."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from unified_extractor.results.figure_style import GRAY, log_axis, scale_and_unit, variant_colors, within_percent
from unified_extractor.results.groups import by_accuracy, by_variant, title
from unified_extractor.results.record import EpochMetrics, Record, RecordError
from unified_extractor.results.statistics import higher_is_better, summary
from unified_extractor.results.tables import in_words
from unified_extractor.visualize.label_placement import label_points

Colors = Mapping[str, Any]
"""The color of each variant, by name."""


def draw_curves(rows: Sequence[Record], *, colors: Colors | None = None) -> Figure:
    """Draw validation accuracy, or mIoU in segmentation, validation loss and training loss against the epoch, a line for each variant.

    With several seeds the line is their mean and a band reaches from the lowest to the highest. The two losses can differ by more than
    overfitting: training minimizes its own with label smoothing, mixup and augmentation if set. Gray variants have no bands.

    Args:
        rows: records of one group.
        colors: colors that other figures have too; None: those of the rows' variants by themselves.

    Raises:
        RecordError: the rows cannot be compared, see :func:`by_variant`.
    """
    variants = by_variant(rows)
    colors = variant_colors(variants, by_accuracy(rows)) if colors is None else colors
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    axes = figure.subplots(1, 3)
    values = ((f"val_{rows[0].score}", 100.0), ("val_loss", 1.0), ("train_loss", 1.0))
    for variant, own in variants.items():
        for axis, (field, scale) in zip(axes, values, strict=True):
            _draw(axis, own, attrgetter(field), scale, color=colors[variant])
    axes[0].set_title(f"validation {in_words(rows[0].score)} (%)", fontsize=10)
    axes[1].set_title("validation loss: plain cross entropy", fontsize=10)
    axes[2].set_title("training loss: with label smoothing, mixup\nand augmentation if set", fontsize=10)
    within_percent(axes[0], "y")
    for axis in axes[1:]:
        log_axis(axis, "y")
    for axis in axes:
        axis.set(xlabel="epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    several = any(len(own) > 1 for own in variants.values())
    figure.suptitle(title(rows) + (": mean over seeds, band from lowest to highest" if several else ""), fontsize=10)
    _legend(figure, variants, colors)
    return figure


def draw_gradient_norms(rows: Sequence[Record], *, colors: Colors | None = None) -> Figure:
    """Draw the mean gradient norm of each stage, before clipping, against the epoch: a panel for each stage, a line for each
    variant.

    With several seeds the line is their mean and a band reaches from the lowest to the highest.

    Args:
        rows: records of one group.
        colors: colors that other figures have too; None: those of the rows' variants by themselves.

    Raises:
        RecordError: the rows cannot be compared, see :func:`by_variant`, or one has no gradient norms of as many stages as the first.
    """
    variants = by_variant(rows)
    colors = variant_colors(variants, by_accuracy(rows)) if colors is None else colors
    stages = len(rows[0].curve[0].gradient_norms or ()) if rows[0].curve else 0
    for row in rows:
        if not stages or any(len(point.gradient_norms or ()) != stages for point in row.curve):
            raise RecordError(f"{row.place} has no gradient norms of {stages or 'its'} stages")
    figure = Figure(figsize=(3.6 * stages + 0.4, 4), layout="constrained")
    axes = figure.subplots(1, stages, squeeze=False, sharey=True)[0]
    for variant, own in variants.items():
        for stage, axis in enumerate(axes):
            _draw(axis, own, partial(_gradient_norm, stage=stage), 1, color=colors[variant])
    for stage, axis in enumerate(axes, 1):
        axis.set(xlabel="epoch", title=f"stage {stage}")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    log_axis(axes[0], "y")  # shared by all
    axes[0].set_ylabel("norm of the gradients")
    figure.suptitle(title(rows), fontsize=10)
    _legend(figure, variants, colors)
    return figure


def draw_accuracy_cost(
    rows: Sequence[Record],
    metric: str = "test_accuracy",
    *,
    costs: Mapping[str, float] | None = None,
    cost: str = "multiply-adds of an image",
    colors: Colors | None = None,
) -> Figure:
    """Draw a metric against a cost, one labeled point for each variant; bars are 95 % t-intervals over seeds, absent with one
    seed.

    Variants ``name@size`` with the same name are one extractor at several sizes: a line connects their points, labeled once.

    Args:
        rows: records of one group.
        metric: field of the records that is shown.
        costs: cost of each variant, by name; by default its multiply-adds.
        cost: label of the cost's axis.
        colors: colors that other figures have too; None: those of the rows' variants by themselves.

    Raises:
        RecordError: the rows cannot be compared, see :func:`by_variant`, a row lacks the metric, or a variant has no cost.
    """
    table = summary(rows, metric)
    if costs is not None:
        if missing := [variant for variant in table["variant"] if variant not in costs]:
            raise RecordError(f"there is no cost of {', '.join(missing)}")
        table["cost"] = [costs[variant] for variant in table["variant"]]
    scale, unit = scale_and_unit(metric)
    along = "multiply_adds" if costs is None else "cost"
    places, means, bars = (table[name].to_numpy(float) for name in (along, metric, f"{metric}_half_width"))
    means, bars = scale * means, scale * bars
    extractors = table["variant"].str.partition("@")[0]
    colors = variant_colors(table["variant"], by_accuracy(rows)) if colors is None else colors
    own_colors = [colors[variant] for variant in table["variant"]]
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axis = figure.subplots()
    for color, place, mean, bar in zip(own_colors, places, means, bars, strict=True):
        drawn = axis.errorbar(place, mean, yerr=None if np.isnan(bar) else bar, fmt="o", capsize=2, elinewidth=1, color=color)
        drawn.lines[0].set_clip_on(False)  # whole at 100 %, where the axis ends
    log_axis(axis, "x")
    axis.margins(0.18, 0.12)
    if extractors.nunique() < len(table):  # labels at the ends of lines lie to their right
        axis.margins(x=0.05)
        axis.autoscale_view()
        axis.set_xlim(right=axis.transData.inverted().transform(axis.transAxes.transform((1.4, 0)))[0])
    _draw_frontier(axis, places, means, highest=higher_is_better(metric))
    axis.set(xlabel=cost, ylabel=in_words(metric) + unit)
    bars_in_words = ": mean over seeds, bars are 95 % t-intervals" if not np.isnan(bars).all() else ""
    axis.set_title(f"{title(rows)}{bars_in_words}; dotted: the best for its cost", fontsize=10)
    axis.grid(alpha=0.3)
    labels = [""] * len(table)
    for extractor in extractors.unique():
        sizes = sorted(np.flatnonzero(extractors == extractor), key=places.__getitem__)
        axis.plot(places[sizes], means[sizes], color=own_colors[sizes[-1]], linewidth=1.2, alpha=0.6)
        labels[sizes[-1]] = extractor
    if unit:
        within_percent(axis, "y")
    label_points(axis, labels, places, means, np.nan_to_num(bars), own_colors)
    return figure


def _draw_frontier(axis: Axes, costs: np.ndarray, means: np.ndarray, *, highest: bool) -> None:
    """Draw a dotted line of steps through the points than which none is both cheaper and better."""
    order = np.lexsort((-means if highest else means, costs))
    best = (np.maximum if highest else np.minimum).accumulate(means[order])
    new = np.append(True, best[1:] != best[:-1])
    axis.plot(
        np.append(costs[order][new], costs.max()),
        np.append(best[new], best[-1]),
        ":",
        color="0.4",
        drawstyle="steps-post",
        zorder=0.9,
    )


def _gradient_norm(point: EpochMetrics, *, stage: int) -> float:
    assert point.gradient_norms is not None
    return point.gradient_norms[stage]


def _legend(figure: Figure, variants: Mapping[str, Sequence[Record]], colors: Colors) -> None:
    """Write a legend below the axes: a line for each variant with a color of its own, and one for all gray ones together."""
    colored = [variant for variant in variants if colors[variant] != GRAY]
    labels = {
        variant: f"{variant} ({len(variants[variant])} seeds)" if len(variants[variant]) > 1 else variant for variant in colored
    }
    handles = [Line2D([], [], color=colors[variant], marker=".", label=label) for variant, label in labels.items()]
    if others := len(variants) - len(colored):
        handles.append(Line2D([], [], color=GRAY, marker=".", label=f"{others} others"))
    longest = max(len(str(handle.get_label())) for handle in handles)
    figure.legend(handles=handles, loc="outside lower center", ncols=max(1, min(4, 150 // (longest + 10))), fontsize=9)


def _draw(axis: Axes, rows: Sequence[Record], value: Callable[[Any], float], scale: float, **style: Any) -> None:
    """Draw the mean of a value at the epochs that all rows have, and the range over the rows."""
    curves = [pd.Series({point.epoch: scale * value(point) for point in row.curve}, dtype=float) for row in rows]
    table = pd.concat(curves, axis=1, join="inner").sort_index()
    gray = style["color"] == GRAY
    order = 1 if gray else 2
    axis.plot(
        table.index,
        table.mean(axis=1),
        marker=".",
        markersize=4,
        linewidth=1 if gray else 1.4,
        clip_on=False,
        zorder=order,
        **style,
    )
    if len(rows) > 1 and not gray:
        axis.fill_between(table.index, table.min(axis=1), table.max(axis=1), color=style["color"], alpha=0.15, linewidth=0)
