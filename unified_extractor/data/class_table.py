"""The classes of a segmentation data set: names and colors, from a table in its folder."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unified_extractor.data.errors import DataError

FILE = "classes.csv"
_COLORS = ("red", "green", "blue")
_FORM = "a line `name,red,green,blue`, then one such line for each class in the order of the labels; colors, 0 to 255, may be left out"
MOST = 255
"""Largest number of classes: the 256th value of a byte marks pixels that count for nothing."""

Color = tuple[int, int, int]


@dataclass(frozen=True)
class ClassTable:
    """The names and the colors of classes, in the order of the labels."""

    names: tuple[str, ...]
    colors: tuple[Color, ...]


def read_class_table(path: Path) -> ClassTable:
    """Return the classes in a table. Without colors, classes have those of Pascal VOC.

    Raises:
        DataError: there is no such file, or it is not such a table.
    """
    try:
        with path.open(newline="") as file:
            table = csv.DictReader(file, skipinitialspace=True)
            columns, lines = _columns(table.fieldnames or ()), list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"{path}: {reason}; it must hold {_FORM}", "classes") from error
    if columns is None:
        raise DataError(
            f"{path}: must begin with the columns name,red,green,blue, or name alone, got {table.fieldnames}", "classes"
        )
    names = tuple((line[columns[0]] or "").strip() for line in lines)
    if not 1 <= len(names) <= MOST or "" in names or len(set(names)) < len(names):
        raise DataError(f"{path}: must name 1 to {MOST} classes, each once, got {list(names)}", "classes")
    if len(columns) == 1:
        return ClassTable(names, tuple(map(voc_color, range(len(names)))))
    return ClassTable(
        names, tuple(_color(path, number, [line[name] for name in columns[1:]]) for number, line in enumerate(lines, 2))
    )


def voc_color(index: int) -> Color:
    """Return the color that Pascal VOC gives a class: the bits of its index, dealt to red, green and blue from the highest on."""
    red, green, blue = (sum(((index >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(8)) for channel in range(3))
    return red, green, blue


def _columns(header: Sequence[str]) -> tuple[str, ...] | None:
    """Return the header's own words for the name and the colors, or ``None`` if they are not there; ``r`` stands for ``red``."""
    words = [word.strip().lower() for word in header]
    wanted = ("name", *_COLORS)
    if words == ["name"] or words in (list(wanted), ["name", "r", "g", "b"]):
        return tuple(header)
    return None


def _color(path: Path, line: int, values: Sequence[str | None]) -> Color:
    try:
        red, green, blue = (int(value or "") for value in values)
        if not all(0 <= value <= 255 for value in (red, green, blue)):
            raise ValueError
    except ValueError:
        raise DataError(
            f"{path}, line {line}: red, green and blue must be whole numbers from 0 to 255, got {values}", "classes"
        ) from None
    return red, green, blue
