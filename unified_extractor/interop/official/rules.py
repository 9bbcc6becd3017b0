"""The vocabulary of the families' tables: an official key, our name, and a conversion where conventions differ."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from torch import Tensor


def same(value: Tensor) -> Tensor:
    """The value as it is."""
    return value


class Rule(NamedTuple):
    """Where an official value goes."""

    ours: str
    """The name in our module."""
    convert: Callable[[Tensor], Tensor] = same
    """From the official convention to ours; shapes may differ only as a linear layer's differs from a 1x1 convolution's."""
    by_class: bool = False
    """One row a class: left out where the module has other classes."""
    resize: Callable[[Tensor, Tensor], Tensor] | None = None
    """For a value that depends on the image's size: (converted value, our parameter) to the value in our size."""


Rules = dict[str, Rule]
Items = Iterator[tuple[str, Rule]]
Convert = Callable[[Tensor], Tensor]


def norm(official: str, ours: str) -> Items:
    """A batch norm."""
    yield from affine(official, ours)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        yield f"{official}.{name}", Rule(f"{ours}.{name}")


def affine(official: str, ours: str, convert: Convert = same, *, bias: bool = True, by_class: bool = False) -> Items:
    """Weight and bias of a linear layer, a convolution or a layer norm."""
    for name in ("weight", "bias") if bias else ("weight",):
        yield f"{official}.{name}", Rule(f"{ours}.{name}", convert, by_class)


def nested(official: str, ours: str, rules: Iterable[tuple[str, Rule]]) -> Items:
    """Rules of a module inside another one."""
    for key, rule in rules:
        yield f"{official}.{key}", rule._replace(ours=f"{ours}.{rule.ours}")
