"""Groups of rows that may be compared: a group has one data set and budget, a variant one network and training, a seed one row."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from unified_extractor.results.record import Record, RecordError
from unified_extractor.spec import ExtractorSpec

SHARED = (
    "network",
    "specs",
    "parameters",
    "multiply_adds",
    "epochs",
    "train_images",
    "epoch_images",
    "test_images",
    "batch_size",
    "settings_hash",
)
"""The fields that the rows of a variant have in common: a mean over them would otherwise be one over different things."""


def title(rows: Sequence[Record]) -> str:
    """Return data set and budget of a group in words."""
    row = rows[0]
    return f"{row.dataset}, budget {row.budget}" if row.budget else row.dataset


def groups(rows: Sequence[Record]) -> dict[str, list[Record]]:
    """Return the rows of each data set and budget, in order, by a name for their folder, such as ``digits`` or ``cifar10-cpu``.

    Raises:
        RecordError: two groups would get the same folder.
    """
    found: dict[str, list[Record]] = {}
    for row in rows:
        parts = (re.sub(r"[^\w-]+", "-", part).strip("-").lower() for part in (row.dataset, row.budget))
        own = found.setdefault("-".join(filter(None, parts)) or "group", [])
        if own and _key(own[0]) != _key(row):
            raise RecordError(f"the groups {title(own)} and {title([row])} would share a folder: report them one by one")
        own.append(row)
    return found


def check_one_group(rows: Sequence[Record]) -> None:
    """Raise ``RecordError`` unless all rows have one data set and budget: others never share a table or a figure."""
    for row in rows:
        if _key(row) != _key(rows[0]):
            raise RecordError(f"rows of {title(rows)} and of {title([row])} cannot be compared: {rows[0].place} and {row.place}")


def by_variant(rows: Sequence[Record]) -> dict[str, list[Record]]:
    """Return the rows of each variant, in order.

    Raises:
        RecordError: rows of several groups, two rows of a variant with one seed, or rows of a variant that differ in a field of
            ``SHARED``.
    """
    check_one_group(rows)
    found: dict[str, list[Record]] = {}
    for row in rows:
        found.setdefault(row.variant, []).append(row)
    for variant, own in found.items():
        seeds: dict[int, Record] = {}
        for row in own:
            _check_same(own[0], row)
            if other := seeds.get(row.seed):
                raise RecordError(
                    f"two rows of variant {variant} with seed {row.seed}: {other.place} and {row.place}; "
                    "name the folders of the runs wanted"
                )
            seeds[row.seed] = row
    return found


def by_accuracy(rows: Sequence[Record], first: str | None = None) -> list[str]:
    """Return the variants by mean validation accuracy or mIoU, the highest first; ``first``, if given, before all others."""
    accuracies: Mapping[str, list[float]] = {row.variant: [] for row in rows}
    for row in rows:
        accuracies[row.variant].append(getattr(row, f"val_{row.score}"))
    return sorted(accuracies, key=lambda variant: (variant != first, -sum(accuracies[variant]) / len(accuracies[variant])))


def _key(row: Record) -> tuple[str, str]:
    return row.dataset, row.budget


def _check_same(first: Record, second: Record) -> None:
    for field in SHARED:
        if found := _difference(_comparable(first, field), _comparable(second, field), field):
            where, one, other = found
            raise RecordError(
                f"rows of variant {first.variant} differ in {where}: {one!r} in {first.place}, {other!r} in {second.place}; "
                "name the folders of the runs wanted"
            )


def _comparable(row: Record, field: str) -> Any:
    """Return a field of a row in a form that later versions share: classes without their modules, specs with options added since."""
    if field == "network":
        return row.network.rpartition(".")[2]
    return [_whole(spec) for spec in row.specs] if field == "specs" else getattr(row, field)


def _whole(spec: dict[str, Any]) -> dict[str, Any]:
    """Return a spec with the defaults of the options that it lacks, in the types of JSON."""
    try:
        whole: dict[str, Any] = json.loads(json.dumps(asdict(ExtractorSpec(**spec))))
    except (TypeError, ValueError):  # the spec of somebody else's network
        return spec
    return whole


def _difference(first: Any, second: Any, where: str) -> tuple[str, Any, Any] | None:
    """Return the first place in which two values differ, and both values there; ``None`` if there is none."""
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        parts = [(first[key], second[key], f"{where}.{key}") for key in first]
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        parts = [(one, other, f"{where}.{index}") for index, (one, other) in enumerate(zip(first, second, strict=True))]
    else:
        return None if first == second else (where, first, second)
    return next(filter(None, (_difference(*part) for part in parts)), None)
