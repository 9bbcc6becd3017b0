"""The colors and axes that all figures of one report share."""

import re
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

_PALE = 0.55
"""Share of white in the color of an extractor's smallest size."""


def variant_colors(variants: Iterable[str]) -> dict[str, Any]:
    """Return a color for each variant, in order of their first appearance.

    Variants ``name@size`` with the same name are one extractor at several sizes: they get shades of one color, the largest the full one.
    """
    sizes: dict[str, list[str]] = {}
    for variant in dict.fromkeys(variants):
        sizes.setdefault(variant.partition("@")[0], []).append(variant)
    count = len(sizes)
    full = colormaps["tab10"].colors if count <= 10 else colormaps["turbo"](np.linspace(0.05, 0.95, count))  # type: ignore[attr-defined]
    found = {}
    for color, own in zip(full, sizes.values(), strict=False):
        for variant, white in zip(sorted(own, key=_size), np.linspace(_PALE * (len(own) > 1), 0, len(own)), strict=True):
            found[variant] = tuple(white + (1 - white) * part for part in to_rgb(color))
    return found


def _size(variant: str) -> tuple[float, str]:
    """Return the number behind the ``@`` of a variant's name, for sorting."""
    number = re.search(r"@.*?(\d+(\.\d+)?)", variant)
    return (float(number[1]) if number else 0.0), variant


def within_percent(axis: Axes, direction: Literal["x", "y"]) -> None:
    """Cut an axis of percentages off at 0 and 100, which no accuracy exceeds, whatever margins or intervals ask for."""
    low, high = axis.get_xlim() if direction == "x" else axis.get_ylim()
    axis.set(**{f"{direction}lim": (max(0.0, low), min(100.0, high))})
