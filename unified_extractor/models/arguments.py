"""Checks of the arguments that networks have in common. Every message names the argument as the user passed it."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from unified_extractor.named_specs import as_spec
from unified_extractor.spec import ExtractorSpec

Specs = ExtractorSpec | Sequence[ExtractorSpec]
"""One extractor for all stages, or a list of one for each. In Python a preset's name or call, such as "involution(kernel_size=3)", stands
for a spec; configurations have their own way to read texts, which the annotation must not shadow."""


def check_size(name: str, value: int, minimum: int = 1) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless the value is an int of at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value!r}")


def check_sizes(name: str, values: Sequence[int], count: int | None = None, minimum: int = 1) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless the values are ints of at least ``minimum``, ``count`` of them if that is given."""
    if not isinstance(values, list | tuple) or any(isinstance(v, bool) or not isinstance(v, int) for v in values):
        raise TypeError(f"{name} must be a list of ints, got {values!r}")
    if any(value < minimum for value in values):
        raise ValueError(f"{name} must be at least {minimum}, got {values!r}")
    if count is not None and len(values) != count:
        raise ValueError(f"{name} must be {count} ints, got {values!r}")


def check_positive(name: str, value: float) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless the value is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value!r}")


def check_rate(name: str, rate: float) -> None:
    """Raise ``ValueError`` unless the rate is a probability below 1."""
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
        raise ValueError(f"{name} must lie in [0, 1), got {rate!r}")


def check_stages(**lists: Sequence[Any]) -> None:
    """Raise ``ValueError`` unless the lists, each under its argument's name, have one length of at least 1: the number of stages."""
    lengths = [len(values) for values in lists.values()]
    if len(set(lengths)) > 1 or 0 in lengths:
        counts = " and ".join(map(str, lengths))
        raise ValueError(f"{' and '.join(lists)} must have one value for each stage, at least one, got {counts} values")


def check_stage_sizes(**lists: Sequence[int]) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless the lists, each under its argument's name, have a size of at least 1 for each stage."""
    for name, values in lists.items():
        check_sizes(name, values)
    check_stages(**lists)


def stage_specs(spec: Specs, stages: int, name: str = "spec") -> list[ExtractorSpec]:
    """Return the extractor of every stage, from one for all of them or a list; a preset's name or call stands for its spec.

    Raises:
        TypeError, ValueError: no spec, or a list of another length; ``name`` is the argument that the message names.
    """
    specs = spec if isinstance(spec, list | tuple) else [spec] * stages
    if len(specs) != stages:
        raise ValueError(f"{name} must be one ExtractorSpec or a list of {stages}, one for each stage, got {len(specs)}")
    return [as_spec(one, name) for one in specs]  # type: ignore[arg-type]


@contextmanager
def spec_of_stage(number: int, channels: int) -> Iterator[None]:
    """Say of a ``ValueError`` in making a stage that its spec does not fit into that stage, numbered from 1."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"spec does not fit into stage {number} with its {channels} channels: {error}") from error


def drop_path_rates(rate: float, depths: Sequence[int]) -> list[list[float]]:
    """Return for every block of every stage how likely stochastic depth drops its branch: linear from 0 to ``rate``."""
    check_rate("drop_path_rate", rate)
    last = max(1, sum(depths) - 1)
    return [[rate * (sum(depths[:i]) + j) / last for j in range(depth)] for i, depth in enumerate(depths)]
