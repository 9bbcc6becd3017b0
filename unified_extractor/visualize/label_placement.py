"""Placement of labels beside points so that none covers another, and line breaks in long names."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

_DIRECTIONS = ((1, 0), (1, 0.4), (1, -0.4), (-1, 0), (0.6, 0.8), (0.6, -0.8), (-0.6, 0.8), (-0.6, -0.8), (0, 1), (0, -1))
_REACH = (9, 20, 34, 50, 70, 95, 125)
"""Distances of a label from its point that are tried, in typographic points; beyond the first a line connects both."""
_HALO = withStroke(linewidth=2.5, foreground="white")
_Place = tuple[float, float, float]
_PLACES: tuple[_Place, ...] = tuple((dx, dy, reach) for reach in _REACH for dx, dy in _DIRECTIONS)


def wrapped(name: str, width: int = 14) -> str:
    """Return a variant's name, unchanged but for line breaks: lines of about ``width`` letters, broken after _, - and spaces."""
    lines = [""]
    for part in re.findall(r"[^_\-\s]*(?:[_\-\s]|$)", name):
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def label_points(
    axis: Axes, labels: Sequence[str], x: np.ndarray, y: np.ndarray, bars: np.ndarray, colors: Sequence[Any]
) -> None:
    """Write a label near each point so that it covers nothing and the line to it crosses little.

    Args:
        axis: axis with all points drawn and its scales set.
        labels: label of each point; an empty one is not written.
        x, y: coordinates of the points.
        bars: half heights of their error bars, 0 without one.
        colors: colors of the lines between points and distant labels.
    """
    figure = axis.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    limits = axis.get_xlim(), axis.get_ylim()
    inside, pixels = axis.get_window_extent(), figure.dpi / 72
    points = [_around(axis, *point) for point in zip(x, y, bars, strict=True)]
    written: list[Bbox] = []
    leaders: list[Path] = []
    for index in np.argsort(y, kind="stable"):
        if not labels[index]:
            continue
        at, others = (x[index], y[index]), [*points[:index], *points[index + 1 :], *written]
        start = axis.transData.transform(at)
        text = axis.annotate(labels[index], at, (0, 0), textcoords="offset points", fontsize=8, path_effects=[_HALO])
        tried: list[tuple[float, _Place, Bbox, Path]] = []
        for place in _PLACES:
            box = _put(text, place)
            leader = Path([start, start + (place[2] - 1) * pixels * np.array(place[:2])])
            covered = sum(box.overlaps(other) for other in (points[index], *others)) + (not _within(box, inside))
            crossed = sum(leader.intersects_bbox(other) for other in others) + sum(
                other.intersects_bbox(box) for other in leaders
            )
            tried.append((1000 * covered + 30 * crossed + place[2], place, box, leader))
        _, place, box, leader = min(tried, key=lambda one: one[0])
        _put(text, place)
        written.append(box)
        if place[2] > _REACH[0]:
            leaders.append(leader)
            arrow = {"arrowstyle": "-", "lw": 0.8, "color": colors[index]}
            axis.annotate("", at, _offset(place), textcoords="offset points", arrowprops=arrow)
    axis.set(xlim=limits[0], ylim=limits[1])


def _put(text: Annotation, place: _Place) -> Bbox:
    """Move a label to a place and return the pixels that it covers there."""
    dx, dy, _ = place
    text.set(position=_offset(place), ha=_aligned(dx, "left", "right"), va=_aligned(dy, "bottom", "top"))
    return text.get_window_extent().padded(1)


def _offset(place: _Place) -> tuple[float, float]:
    dx, dy, reach = place
    return dx * reach, dy * reach


def _aligned(direction: float, positive: str, negative: str) -> str:
    return "center" if abs(direction) < 0.5 else positive if direction > 0 else negative


def _around(axis: Axes, x: float, y: float, bar: float) -> Bbox:
    """Return the pixels of a point and its error bar."""
    (left, low), (right, high) = axis.transData.transform([(x, y - bar), (x, y + bar)])
    return Bbox.from_extents(left - 6, low - 6, right + 6, high + 6)


def _within(box: Bbox, outer: Bbox) -> bool:
    return bool(box.x0 >= outer.x0 and box.x1 <= outer.x1 and box.y0 >= outer.y0 and box.y1 <= outer.y1)
