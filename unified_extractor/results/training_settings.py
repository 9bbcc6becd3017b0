"""The settings by which runs were trained that differ between them, and the names that tell runs of one variant apart."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from unified_extractor.results.record import Record

TRAINING = ("epochs", "learning_rate", "batch_size", "train_images")
"""The fields of a row that say how it was trained."""


def differing(rows: Sequence[Record]) -> list[str]:
    """Return those fields of ``TRAINING`` in which rows differ."""
    return [field for field in TRAINING if len({getattr(row, field) for row in rows}) > 1]


def in_words(row: Record, fields: Sequence[str]) -> str:
    """Return ``epochs 6, learning rate 0.01`` for these fields of a row."""
    values = ((field, getattr(row, field)) for field in fields)
    return ", ".join(f"{field.replace('_', ' ')} {value:g}" for field, value in values if value is not None)


def without_repeats(rows: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """Return the rows without those of runs that were made again with the same settings and seed, and a text for each of these.

    The run that ended last stays.
    """
    newest: dict[tuple[str, ...], Record] = {}
    for row in sorted(rows, key=lambda row: row.finished):
        newest[_repeated(row)] = row
    left_out = [
        f"{row.place}: {row.variant} with seed {row.seed} was run again with the same settings, in {newest[_repeated(row)].place}"
        for row in rows
        if newest[_repeated(row)] is not row
    ]
    return [row for row in rows if newest[_repeated(row)] is row], left_out


def told_apart(rows: Sequence[Record]) -> list[Record]:
    """Return the rows, where those of one variant were not trained alike under names such as ``involution (epochs 6)``.

    Where no field of ``TRAINING`` tells other settings apart, the name is ``involution (as in runs/involution/version_1)``.
    """
    variants: dict[tuple[str, ...], list[Record]] = {}
    for row in rows:
        variants.setdefault((row.dataset, row.budget, row.variant), []).append(row)
    names = {row.run: name for own in variants.values() for row, name in zip(own, _names(own), strict=True)}
    return [replace(row, variant=names[row.run]) for row in rows]


def _names(rows: Sequence[Record]) -> list[str]:
    """Return a name for each row of a variant; rows of equal settings have equal names."""
    settings: dict[str, list[Record]] = {}
    for row in rows:
        settings.setdefault(row.settings_hash, []).append(row)
    if len(settings) == 1:
        return [row.variant for row in rows]
    fields = differing(rows)
    names = {key: in_words(own[0], fields) for key, own in settings.items()}
    for name, keys in groupby(sorted(names, key=names.__getitem__), names.__getitem__):
        same = list(keys)
        if len(same) > 1 or not name:
            names |= {key: ", ".join(filter(None, [name, f"as in {settings[key][0].place}"])) for key in same}
    return [f"{row.variant} ({names[row.settings_hash]})" for row in rows]


def _repeated(row: Record) -> tuple[str, ...]:
    return row.dataset, row.budget, row.variant, str(row.seed), row.config_hash
