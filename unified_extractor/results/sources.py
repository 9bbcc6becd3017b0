"""The sources of rows: run folders, and files of rows."""

from collections.abc import Sequence
from pathlib import Path

from unified_extractor.results.record import Record, RecordError, read_rows

RECORD = "record.json"
"""The file of a run folder that holds its row."""


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Return the run folders with a record in or below the given folders, sorted. Raises ``RecordError`` if a folder has none."""
    found: dict[Path, Path] = {}
    for folder in folders:
        runs = sorted(path.parent for path in folder.rglob(RECORD))
        if not runs:
            raise RecordError(f"{folder}: no {RECORD} in or below it" if folder.exists() else f"{folder}: no such folder")
        for run in runs:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def read_run(run: Path) -> Record:
    """Return the row of a run folder. Raises ``RecordError`` unless its record is exactly one row."""
    path = run / RECORD
    rows = read_rows([path])
    if len(rows) != 1:
        raise RecordError(f"{path}: the record of a run is one row, got {len(rows)}")
    return rows[0]


def find_rows(sources: Sequence[Path]) -> list[Record]:
    """Return the rows of all sources in order: of a folder those of the runs in or below it, of a file its lines.

    Raises:
        RecordError: a source without rows, a broken row, or two rows of one run. A source named twice is read once.
    """
    files: dict[Path, Path] = {}
    for source in sources:
        if not source.exists():
            raise RecordError(f"{source}: no such file or folder")
        for path in [run / RECORD for run in find_runs([source])] if source.is_dir() else [source]:
            files.setdefault(path.resolve(), path)
    rows = read_rows(list(files.values()))
    if not rows:
        raise RecordError(f"no rows in {', '.join(map(str, sources))}")
    return rows
