"""Figures of numbers with their intervals, one below the other: variants by rank, and effects."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from unified_extractor.results.figure_style import lines_figure, scale_and_unit, variant_colors, within_percent
from unified_extractor.results.groups import by_accuracy, title
from unified_extractor.results.record import Record
from unified_extractor.results.statistics import summary
from unified_extractor.results.tables import in_words
from unified_extractor.results.training_settings import differing
from unified_extractor.results.training_settings import in_words as training_in_words


def draw_ranking(
    rows: Sequence[Record],
    metric: str = "test_accuracy",
    *,
    colors: Mapping[str, Any] | None = None,
    switches: pd.DataFrame | None = None,
) -> Figure:
    """Return a figure of every variant's mean, the highest on top; small dots are seeds, bars 95 % t-intervals, absent with one seed.

    Args:
        rows: records of one group.
        metric: the field of the records that is shown.
        colors: colors of variants that other figures have too; None: those of the rows' variants by themselves.
        switches: states of every variant's switches (:func:`~unified_extractor.results.switches.states`), drawn as a matrix beside
            the names.

    Raises:
        RecordError: the rows cannot be compared, or one has no such metric.
    """
    scale, unit = scale_and_unit(metric)
    table = summary(rows, metric).sort_values(metric, ignore_index=True)
    figure = lines_figure(len(table))
    if switches is None:
        axis = named = figure.subplots()
    else:
        named, axis = figure.subplots(1, 2, sharey=True, width_ratios=[len(switches.columns), 18])
        _draw_switches(named, switches.loc[table["variant"]])
    places = {variant: place for place, variant in enumerate(table["variant"])}
    if (table["seeds"] > 1).any():
        seeds = [(scale * getattr(row, metric), places[row.variant]) for row in rows]
        axis.plot(*zip(*seeds, strict=True), ".", color="0.6", markersize=3.5, zorder=1)
    bars = scale * np.nan_to_num(table[f"{metric}_half_width"].to_numpy(float))
    colors = variant_colors(places, by_accuracy(rows)) if colors is None else colors
    for place, (variant, mean, bar) in enumerate(zip(table["variant"], scale * table[metric], bars, strict=True)):
        drawn = axis.errorbar(mean, place, xerr=bar, fmt="o", markersize=4, color=colors[variant], capsize=2, linewidth=1)
        drawn.lines[0].set_clip_on(False)  # whole at 100 %, where the axis ends
    named.set_yticks(range(len(table)), _labels(rows, table["variant"].tolist()), fontsize=8)
    axis.set(xlabel=in_words(metric) + unit, ylim=(-0.7, len(table) - 0.3))
    if scale == 100:
        within_percent(axis, "x")
    axis.xaxis.set_major_locator(MaxNLocator(8))
    axis.grid(axis="x", alpha=0.3)
    several = "mean and 95 % t-interval over seeds" if bars.any() else "one seed each"
    axis.set_title(f"{title(rows)}: {several}", fontsize=9)
    return figure


def _draw_switches(axis: Axes, switches: pd.DataFrame) -> None:
    """Draw a column for each switch: a black square where it is on, a pale one where it is off, nothing where it is neither."""
    for place, name in enumerate(switches):
        for state, color in ((True, "0.15"), (False, "0.88")):
            lines = np.flatnonzero([found is state for found in switches[name]])
            axis.plot(np.full(len(lines), place), lines, "s", markersize=7, color=color)
    axis.set_xticks(range(switches.shape[1]), switches.columns, rotation=90, fontsize=8)
    axis.tick_params(axis="both", length=0)
    axis.set_xlim(-0.7, switches.shape[1] - 0.3)
    axis.spines[:].set_visible(False)
    axis.text(0, 1, "on: black, off: pale", transform=axis.transAxes, fontsize=7, va="bottom")


def draw_effects(table: pd.DataFrame, about: str, metric: str = "test_accuracy") -> Figure:
    """Return a figure of main effects above and interactions below, with 95 % intervals; dots whose interval leaves out zero are filled.

    Args:
        table: the table of :func:`~unified_extractor.results.effects.effects`.
        about: a name for the rows, for the title.
        metric: the metric that the effects are differences of.
    """
    scale, unit = scale_and_unit(metric)
    single = ~table["effect"].str.contains(" x ")
    figure = lines_figure(len(table) + 2)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[single.sum() + 1, max(1, (~single).sum()) + 1])
    for axis, part, heading in ((upper, table[single], "main effects"), (lower, table[~single], "two-way interactions")):
        for place, (_, line) in enumerate(part.iloc[::-1].iterrows()):
            mean, low, high = (scale * float(line[f"{metric}_{end}"]) for end in ("difference", "low", "high"))
            clear = low > 0 or high < 0
            axis.plot([low, high], [place, place], color="C0", linewidth=1.2)
            axis.plot(mean, place, "o", markersize=5, color="C0", markerfacecolor="C0" if clear else "white")
        axis.axvline(0, color="0.4", linewidth=0.8)
        axis.set_yticks(range(len(part)), part["effect"].iloc[::-1], fontsize=8)
        axis.set(ylim=(-0.7, len(part) - 0.3))
        axis.set_title(heading, fontsize=9, loc="left")
        axis.grid(axis="x", alpha=0.3)
    lower.set_xlabel(f"difference in {in_words(metric)}{unit.replace('%', 'points')}; filled: the 95 % interval leaves out zero")
    figure.suptitle(f"{about}: {int(table['runs'].iloc[0])} runs", fontsize=9)
    return figure


def _labels(rows: Sequence[Record], variants: Sequence[str]) -> list[str]:
    """Return the names of variants, with their training where they were not trained alike and the names do not say so."""
    first = {row.variant: row for row in reversed(rows)}
    fields = differing(rows)
    labels = []
    for variant in variants:
        settings = training_in_words(first[variant], fields)
        labels.append(variant if settings in variant else f"{variant}, {settings}")
    return labels
