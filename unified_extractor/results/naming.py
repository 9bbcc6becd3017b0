"""Names and roles of variants, as a person gives them to a report."""

from collections.abc import Sequence
from dataclasses import replace

from unified_extractor.names import did_you_mean
from unified_extractor.results.record import Record, RecordError


def check_variants(rows: Sequence[Record], variants: Sequence[str]) -> None:
    """Raise ``RecordError`` for a variant without a row."""
    there = sorted({row.variant for row in rows})
    for variant in variants:
        if variant not in there:
            raise RecordError(f"no row of variant {variant!r}, there are {', '.join(there)}{did_you_mean(variant, there)}")


def chosen(rows: Sequence[Record], variants: Sequence[str]) -> list[Record]:
    """Return the rows of these variants, variant by variant. Raise ``RecordError`` for a variant without a row."""
    check_variants(rows, variants)
    return sorted((row for row in rows if row.variant in variants), key=lambda row: variants.index(row.variant))


def renamed(rows: Sequence[Record], pairs: Sequence[str]) -> list[Record]:
    """Return the rows with other names of variants, each given as ``former=name``, so that one extractor has one name everywhere.

    Raises:
        RecordError: a pair without both names, a variant without a row, or a name that another variant of its group has.
    """
    names = dict(_split(pair, "former=name", last=True) for pair in pairs)
    check_variants(rows, list(names))
    called: dict[tuple[str, str, str], str] = {}
    for dataset, budget, former in dict.fromkeys((row.dataset, row.budget, row.variant) for row in rows):
        name = names.get(former, former)
        if (other := called.setdefault((dataset, budget, name), former)) != former:
            raise RecordError(f"the variants {other} and {former} would both be called {name}")
    return [replace(row, variant=names.get(row.variant, row.variant)) for row in rows]


def roles_of(rows: Sequence[Record], pairs: Sequence[str]) -> dict[str, str]:
    """Return the role of every variant that has one, given as ``role=variant``, in the order given.

    Raises:
        RecordError: a pair without both, a variant without a row, or one with two roles.
    """
    roles: dict[str, str] = {}
    for role, variant in (_split(pair, "role=variant") for pair in pairs):
        check_variants(rows, [variant])
        if roles.setdefault(variant, role) != role:
            raise RecordError(f"the variant {variant} has two roles, {roles[variant]} and {role}")
    return roles


def _split(pair: str, form: str, *, last: bool = False) -> tuple[str, str]:
    left, _, right = pair.rpartition("=") if last else pair.partition("=")
    if not (left and right):
        raise RecordError(f"must be {form}, got {pair!r}")
    return left, right
