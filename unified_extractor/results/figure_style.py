"""The colors and axes that all figures of one report share."""

import re
from collections.abc import Iterable
from itertools import cycle
from typing import Any, Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullLocator

from unified_extractor.results.tables import is_percentage

GRAY = (0.72, 0.72, 0.72)
"""The color of variants that have none of their own."""
_LINE_INCHES = 0.21
_ROLES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_MOST_COLORS, _COLORED = 10, 5
"""Number of extractors beyond which colors cannot be told apart, and the number of those that then have one."""
_PALE = 0.55
"""Share of white in the color of an extractor's smallest size."""


def variant_colors(variants: Iterable[str], foremost: Iterable[str] = ()) -> dict[str, Any]:
    """Return a color for each variant, in order of their first appearance; with more than ten extractors only five have one.

    Variants ``name@size`` with the same name are one extractor at several sizes: they get shades of one color, the largest the full one.

    Args:
        variants: names of the variants; a name may come several times.
        foremost: variants in order of importance, which decides who has a color and who is gray; by default the order of ``variants``.
    """
    sizes: dict[str, list[str]] = {}
    for variant in dict.fromkeys(variants):
        sizes.setdefault(variant.partition("@")[0], []).append(variant)
    colored = list(sizes)
    if len(sizes) > _MOST_COLORS:
        first = dict.fromkeys(variant.partition("@")[0] for variant in (*foremost, *sizes))
        colored = [name for name in first if name in sizes][:_COLORED]
    hues = dict(zip(colored, colormaps["tab10"].colors, strict=False))  # type: ignore[attr-defined]
    found = {}
    for name, own in sizes.items():
        for variant, white in zip(sorted(own, key=_size), np.linspace(_PALE * (len(own) > 1), 0, len(own)), strict=True):
            found[variant] = tuple(white + (1 - white) * part for part in to_rgb(hues[name])) if name in hues else GRAY
    return found


def _size(variant: str) -> tuple[float, str]:
    """Return the number behind the ``@`` of a variant's name, for sorting."""
    number = re.search(r"@.*?(\d+(\.\d+)?)", variant)
    return (float(number[1]) if number else 0.0), variant


def lines_figure(lines: int) -> Figure:
    """Return an empty figure of the height that so many lines of text take, one below the other."""
    return Figure(figsize=(8, 1.3 + _LINE_INCHES * lines), layout="constrained")


def scale_and_unit(metric: str) -> tuple[float, str]:
    """Return the factor and the unit in which a metric is drawn."""
    return (100, " (%)") if is_percentage(metric) else (1, "")


def role_colors(roles: Iterable[str]) -> dict[str, str]:
    """Return a color for each role, in order of their first appearance; they can be told apart by people who are color-blind."""
    return dict(zip(dict.fromkeys(roles), cycle(_ROLES), strict=False))


def log_axis(axis: Axes, direction: Literal["x", "y"]) -> None:
    """Make the axis of what is drawn logarithmic, with a number at every tick; one whose values differ by less than half stays linear."""
    own = axis.xaxis if direction == "x" else axis.yaxis
    low, high = own.get_data_interval()
    if low > 0 and high >= 1.5 * low:
        axis.set(**{f"{direction}scale": "log"})
        start, end = (
            axis.get_xlim() if direction == "x" else axis.get_ylim()
        )  # an axis that is shared shows more than its own values
        own.set_major_locator(LogLocator(subs=_ticks(end / start), numticks=50))
        own.set_minor_locator(NullLocator())
    own.set_major_formatter(EngFormatter() if high >= 1000 else FuncFormatter(lambda value, _: f"{value:g}"))


def _ticks(ratio: float) -> tuple[float, ...]:
    """Return the ticks of a decade, for an axis whose ends have this ratio: about five to ten on the whole axis."""
    if ratio < 4:
        return (1, 1.2, 1.4, 1.6, 1.8, 2, 2.2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9)
    if ratio < 12:
        return (1, 1.5, 2, 3, 4, 6, 8)
    return (1, 2, 5) if ratio < 1000 else (1,)


def within_percent(axis: Axes, direction: Literal["x", "y"]) -> None:
    """Cut an axis of percentages off at 0 and 100, which no accuracy exceeds, whatever margins or intervals ask for."""
    low, high = axis.get_xlim() if direction == "x" else axis.get_ylim()
    axis.set(**{f"{direction}lim": (max(0.0, low), min(100.0, high))})
