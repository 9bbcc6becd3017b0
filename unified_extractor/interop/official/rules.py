"""Rules of which the families' tables consist: an official key, our name, and a conversion where conventions differ."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from torch import Tensor


def same(value: Tensor) -> Tensor:
    """Return the value as it is."""
    return value


class Rule(NamedTuple):
    """The destination of an official value."""

    ours: str
    """Name in our module."""
    convert: Callable[[Tensor], Tensor] = same
    """Conversion from the official convention to ours; shapes may differ only as a linear layer's and a 1x1 convolution's do."""
    by_class: bool = False
    """Mark of a value with one row for each class, which is left out where the module has other classes."""
    resize: Callable[[Tensor, Tensor], Tensor] | None = None
    """Function of the converted value and our parameter to the value in our size, where the value depends on the image's size."""


Rules = dict[str, Rule]
Items = Iterator[tuple[str, Rule]]
Convert = Callable[[Tensor], Tensor]


def norm(official: str, ours: str) -> Items:
    """Yield the rules of a batch norm."""
    yield from affine(official, ours)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        yield f"{official}.{name}", Rule(f"{ours}.{name}")


def affine(official: str, ours: str, convert: Convert = same, *, bias: bool = True, by_class: bool = False) -> Items:
    """Yield the rules of weight and bias of a linear layer, a convolution or a layer norm."""
    for name in ("weight", "bias") if bias else ("weight",):
        yield f"{official}.{name}", Rule(f"{ours}.{name}", convert, by_class)


def nested(official: str, ours: str, rules: Iterable[tuple[str, Rule]]) -> Items:
    """Yield the rules of a module inside another one."""
    for key, rule in rules:
        yield f"{official}.{key}", rule._replace(ours=f"{ours}.{rule.ours}")
