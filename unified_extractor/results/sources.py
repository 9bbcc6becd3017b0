"""The sources of rows: run folders, and files of rows."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from unified_extractor.results.record import PROGRESS, RECORD, RUN_FILES, Record, RecordError, read_rows

_STARTED = "environment.json"
"""The file that every run has from its start on."""


def find_runs(folders: Sequence[Path], *, unfinished: bool = False) -> list[Path]:
    """Return the run folders with a record in or below the given folders, sorted.

    With ``unfinished`` those of runs that are not finished count too, once an epoch was validated.

    Raises:
        RecordError: a folder has none.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        wanted = RUN_FILES if unfinished else (RECORD,)
        runs = sorted({path.parent for name in wanted for path in folder.rglob(name)})
        if not runs:
            hint = "".join(f"; left out: {reason}" for reason in unfinished_runs([folder], taken=unfinished))
            raise RecordError(f"{folder}: no {RECORD} in or below it{hint}" if folder.exists() else f"{folder}: no such folder")
        for run in runs:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def unfinished_runs(sources: Sequence[Path], *, taken: bool = False) -> list[str]:
    """Return a text for each run in or below the sources that is left out because it is not finished.

    ``taken`` says that those with a validated epoch are not left out.
    """
    texts: dict[Path, str] = {}
    for source in sources:
        for run in sorted({path.parent for name in (_STARTED, PROGRESS) for path in source.rglob(name)}):
            if (run / RECORD).is_file():
                continue
            if not (run / PROGRESS).is_file():
                why = f"it has no {PROGRESS}" if any(run.rglob("*.ckpt")) else "no epoch has been validated"
                texts.setdefault(run.resolve(), f"{run}: not finished, and {why}")
            elif not taken:
                row = read_run(run)
                done = f"{row.epochs} of {row.planned_epochs} epochs" if row.epochs != row.planned_epochs else "not tested yet"
                texts.setdefault(run.resolve(), f"{run}: not finished, {done}; --unfinished takes it")
    return list(texts.values())


def read_run(run: Path) -> Record:
    """Return the row of a run folder, of a run that is not finished under a name that says so.

    Raises:
        RecordError: its record is not exactly one row.
    """
    path = _row_file(run)
    rows = read_rows([path])
    if len(rows) != 1:
        raise RecordError(f"{path}: the record of a run is one row, got {len(rows)}")
    return _marked(rows[0])


def find_rows(sources: Sequence[Path], *, unfinished: bool = False) -> list[Record]:
    """Return the rows of all sources in order: of a folder those of the runs in or below it, of a file its lines.

    With ``unfinished`` runs that are not finished count too, under names that say so.

    Raises:
        RecordError: a source without rows, a broken row, or two rows of one run. A source named twice is read once.
    """
    files: dict[Path, Path] = {}
    for source in sources:
        if not source.exists():
            raise RecordError(f"{source}: no such file or folder")
        runs = find_runs([source], unfinished=unfinished) if source.is_dir() else []
        for path in map(_row_file, runs) if source.is_dir() else [source]:
            files.setdefault(path.resolve(), path)
    rows = read_rows(list(files.values()))
    if not rows:
        raise RecordError(f"no rows in {', '.join(map(str, sources))}")
    return [_marked(row) for row in rows]


def _row_file(run: Path) -> Path:
    return run / RECORD if (run / RECORD).is_file() else run / PROGRESS


def _marked(row: Record) -> Record:
    if row.planned_epochs is None:
        return row
    return replace(row, variant=f"{row.variant} (unfinished, {row.epochs} of {row.planned_epochs} epochs)")
