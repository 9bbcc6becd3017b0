"""The main figure of a report: every variant's difference from the baseline with its simultaneous interval, a forest plot."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from unified_extractor.results.comparison import Comparison
from unified_extractor.results.figure_style import lines_figure, role_colors, scale_and_unit
from unified_extractor.results.statistics import higher_is_better
from unified_extractor.results.tables import formatted, in_words


def draw_forest(comparison: Comparison, about: str, *, roles: Mapping[str, str] | None = None) -> Figure:
    """Return a figure of every variant's difference from the baseline, the best on top, with its simultaneous 95 % interval.

    Dots whose interval over seeds leaves out zero are filled. A thin line is the interval over seeds and test images, where there is one.
    The numbers stand at the right.

    Args:
        comparison: comparison of a group's variants.
        about: a name for the rows, for the title.
        roles: roles of variants by name, such as ``control``: each role has a color, variants without one are black.
    """
    metric, roles = comparison.metric, roles or {}
    better = 1 if higher_is_better(metric) else -1
    table = comparison.table().sort_values(f"{metric}_difference", key=lambda difference: better * difference)
    by_role = role_colors(roles.values())
    colors = [by_role.get(roles.get(variant, ""), "black") for variant in table["variant"]]
    figure = lines_figure(len(table) + 1)
    axis = figure.subplots()
    for place, (line, color) in enumerate(zip(table.to_dict("records"), colors, strict=True)):
        _draw_difference(axis, place, line, metric, color)
    axis.axvline(0, color="0.3", linewidth=1, zorder=0.5)
    axis.set_yticks(range(len(table)), table["variant"], fontsize=8)
    for label, color in zip(axis.get_yticklabels(), colors, strict=True):
        label.set_color(color)
    numbers = axis.secondary_yaxis("right")
    numbers.set_yticks(range(len(table)), _numbers(table), fontsize=8)
    numbers.tick_params(length=0)
    points = scale_and_unit(metric)[1].replace("%", "points")
    axis.set(ylim=(-0.7, len(table) - 0.3), xlabel=f"{in_words(metric)} minus that of {comparison.baseline}{points}")
    axis.xaxis.set_major_locator(MaxNLocator(8))
    axis.grid(axis="x", alpha=0.3)
    outside = (
        "thin: test images too; filled: zero is outside the thick one" if comparison.sample_errors else "filled: zero is outside"
    )
    figure.suptitle(f"{about}: simultaneous 95 % intervals over seeds; {outside}", fontsize=9)
    if shown := [role for role in by_role if role in {roles.get(variant) for variant in table["variant"]}]:
        handles = [Line2D([], [], marker="o", linewidth=2.2, color=by_role[role], label=role) for role in shown]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)
    return figure


def _draw_difference(axis: Axes, place: int, line: Mapping[Any, Any], metric: str, color: str) -> None:
    """Draw a line of a comparison's table."""
    scale = scale_and_unit(metric)[0]
    low, high, sample_low, sample_high = (
        scale * line.get(f"{metric}_{end}", np.nan) for end in ("low", "high", "sample_low", "sample_high")
    )
    axis.plot([sample_low, sample_high], [place, place], color=color, linewidth=0.8, marker="|", markersize=5)
    axis.plot([low, high], [place, place], color=color, linewidth=2.2, solid_capstyle="butt")
    face = color if low > 0 or high < 0 else "white"
    axis.plot(scale * line[f"{metric}_difference"], place, "o", markersize=6, color=color, markerfacecolor=face, zorder=3)


def _numbers(table: pd.DataFrame) -> list[str]:
    """Return difference and interval of each line of a comparison's table, as its table of text has them."""
    text = formatted(table)
    value, interval = (next(column for column in text if str(column).startswith(start)) for start in ("difference", "95 %"))
    return [one if there == "-" else f"{one}  ({there})" for one, there in zip(text[value], text[interval], strict=True)]
