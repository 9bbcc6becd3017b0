"""The machine code's table: what the kernels execute now, beside what they executed before."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from unified_extractor.results.markdown import as_markdown

ARCHITECTURE = 90
_KEYS = ("triton", "call", "dtype", "pass", "kernel")
_NOTES = """# The Triton kernels' machine code

Written by `uniex bench code`: the kernels compiled for sm_{architecture} (an H100 or H200) and read. **Nothing here ran on a GPU, and
nothing is a time.** Channels last, two images, each kernel in its default configuration. Where a cell has two numbers, the first is of the
kernels before ({before}), the second of the kernels now ({now}). *-*: there is no such kernel; *?*: not countable.

* *instructions*: executed by all threads, divided by the values of the call's output. A warp of a program is walked through with the
  call's true sizes and offsets of zero; the mean of up to 24 programs in the middle of the grid.
* *barriers*: executed by a program, the same way.
* *lines*: cache lines of 128 bytes that a warp touches by each load of 16 bytes a thread, counted from the addresses; 4 is the least.
* *loads*: loads from global memory that a thread executes, by their bytes.
* *registers* of a thread, bytes of *shared* memory of a program, instructions that *spill* registers to memory.
"""


def compiled(tritons: Sequence[Path | None], only: str) -> list[dict[str, Any]]:
    """Return a row for each kernel and Triton: the installed one for None, else one in a folder."""
    rows = []
    for folder in tritons:
        words = [str(ARCHITECTURE), "--defaults", "--walk", "--channels-last", "--only", only]
        rows += lines_of(words, folder)
    return rows


def lines_of(words: Sequence[str], triton: Path | None = None) -> list[dict[str, Any]]:
    """Return the rows that the program of ``offline.py`` prints.

    Raises:
        RuntimeError: it fails.
    """
    root = str(Path(__file__).parents[3])
    paths = [str(triton.resolve())] if triton else []
    paths += [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(paths)}
    program = f"{__package__}.offline"
    run = subprocess.run([sys.executable, "-m", program, *words], env=environment, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"compiling the kernels failed: {run.stderr.strip()[-2000:]}")
    return [json.loads(line) for line in run.stdout.splitlines()]


def markdown(result: Mapping[str, Any]) -> str:
    """Return the result file as a Markdown page."""
    before, now = (_by_key(result[name]["kernels"]) for name in ("before", "now"))
    text = _NOTES.format(
        architecture=result["architecture"],
        before=result["before"]["commit"],
        now=result["now"]["commit"],
    )
    for triton in dict.fromkeys(key[0] for key in before | now):
        keys = [key for key in before | now if key[0] == triton]
        table = [_row(key, before.get(key), now.get(key)) for key in sorted(keys, key=lambda key: list(before | now).index(key))]
        text += f"\n## Triton {triton}\n\n{as_markdown(pd.DataFrame(table))}\n"
    return text


def _by_key(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, ...], Mapping[str, Any]]:
    """Return rows by what they have in common before and now; several launches of a kernel in a pass are numbered."""
    found: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for row in rows:
        *labels, kernel = (row[key] for key in _KEYS)
        names = (kernel, *(f"{kernel} {number}" for number in range(2, len(rows) + 2)))
        found[next(key for name in names if (key := (*labels, name)) not in found)] = row
    return found


def _row(key: tuple[str, ...], before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> dict[str, str]:
    _, call, dtype, which, kernel = key
    columns = {
        "instructions": lambda row: _number(row["instructions"]),
        "lines": lambda row: _number(row.get("lines")),
        "barriers": lambda row: _number(row.get("barriers")),
        "registers": lambda row: str(row["registers"]),
        "shared": lambda row: str(row["shared"]),
        "spills": lambda row: str(row["spills"]),
        "loads": lambda row: ", ".join(f"{count:g} of {width}" for width, count in row.get("loads", {}).items()),
    }
    cells = {name: ["-" if row is None else text(row) for row in (before, now)] for name, text in columns.items()}
    labels = {"call": call, "dtype": dtype, "pass": which, "kernel": kernel}
    return labels | {name: texts[0] if texts[0] == texts[1] else " / ".join(texts) for name, texts in cells.items()}


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:g}"
