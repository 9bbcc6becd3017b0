"""What every network does with its arguments: checks of sizes and rates, one extractor or one a stage, variants."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from unified_extractor.spec import ExtractorSpec

Specs = ExtractorSpec | Sequence[ExtractorSpec]
"""One extractor for all stages, or one each."""
Network = TypeVar("Network")


def check_sizes(name: str, values: Sequence[int], minimum: int = 1) -> None:
    """All are ints of at least ``minimum``. Raises ``TypeError`` or ``ValueError`` that names the argument."""
    if not isinstance(values, list | tuple) or any(isinstance(v, bool) or not isinstance(v, int) for v in values):
        raise TypeError(f"{name} must be made of ints, got {values!r}")
    if any(value < minimum for value in values):
        raise ValueError(f"{name} must be at least {minimum}, got {values!r}")


def check_stages(**values: Sequence[Any]) -> None:
    """All lists name the same stages, at least one. Raises ``ValueError`` that names the arguments."""
    lengths = [len(value) for value in values.values()]
    if len(set(lengths)) > 1 or 0 in lengths:
        *names, last = values
        *counts, count = map(str, lengths)
        raise ValueError(
            f"{', '.join(names)} and {last} must name the same stages, at least one, got {', '.join(counts)} and {count}"
        )


def stage_specs(spec: Specs | None, published: Specs, stages: int) -> list[ExtractorSpec]:
    """One extractor a stage, from one for all, one each, or None for the published ones. Raises ``TypeError``, ``ValueError``."""
    given = published if spec is None else spec
    specs = [given] * stages if isinstance(given, ExtractorSpec) else given
    if not isinstance(specs, list | tuple) or not all(isinstance(one, ExtractorSpec) for one in specs):
        raise TypeError(f"spec must be an ExtractorSpec or a list of them, got {given!r}")
    if len(specs) != stages:
        raise ValueError(f"spec must be one ExtractorSpec or one for each of {stages} stages, got {len(specs)}")
    return list(specs)


def check_positive(name: str, value: float) -> None:
    """A finite number above 0. Raises ``TypeError`` or ``ValueError`` that names the argument."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value!r}")


def check_rate(name: str, rate: float) -> None:
    """A probability of dropping something. Raises ``ValueError`` that names the argument."""
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
        raise ValueError(f"{name} must lie in [0, 1), got {rate!r}")


def drop_path_rates(rate: float, depths: Sequence[int]) -> list[list[float]]:
    """The probability that stochastic depth drops a block's branch, for every block of every stage: linear from 0 to ``rate``."""
    check_rate("drop_path_rate", rate)
    last = max(1, sum(depths) - 1)
    return [[rate * (sum(depths[:i]) + j) / last for j in range(depth)] for i, depth in enumerate(depths)]


def variant(name: str, network: Callable[..., Network], **sizes: Any) -> Callable[..., Network]:
    """A function that makes the network at published sizes; every other argument stays free, in signature, help and YAML."""
    free = [parameter for parameter in inspect.signature(network).parameters.values() if parameter.name not in sizes]

    def make(*arguments: Any, **options: Any) -> Network:
        return network(*arguments, **options, **sizes)

    shown = ", ".join(f"{key}={value!r}" for key, value in sizes.items() if key != "published")
    make.__name__ = make.__qualname__ = name
    make.__module__ = network.__module__
    make.__doc__ = f"{network.__name__}({shown}). The arguments are those of {network.__name__}."
    make.__signature__ = inspect.Signature(free, return_annotation=network)  # type: ignore[attr-defined]
    make.__annotations__ = {parameter.name: parameter.annotation for parameter in free} | {"return": network}
    return make
