"""Rules of which the families' tables consist: an official key, our name, and a conversion where conventions differ."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor


def same(value: Tensor) -> Tensor:
    """Return the value as it is."""
    return value


class Rule(NamedTuple):
    """The destination of an official value."""

    ours: str
    """Name in our module."""
    convert: Callable[[Tensor], Tensor] = same
    """Conversion from the official convention to ours. Shapes may differ only as a linear layer's and a 1x1 convolution's do, and
    kernels of several terms may be rows of a matrix, or have no axis for the one input channel of a depthwise kernel."""
    by_class: bool = False
    """Mark of a value with one row for each class, which is left out where the module has other classes."""
    resize: Callable[[Tensor, Tensor], Tensor] | None = None
    """Function of the converted value and our parameter to the value in our size, where the value depends on the image's size."""
    second_half: str = ""
    """Name in our module of the second half of the rows, where the first half alone goes to ``ours``."""
    shape: tuple[int, ...] | None = None
    """Shape of the official value, where it has other axes than ours."""
    constant: Tensor | None = None
    """The only value that it may have, which nothing here needs: a constant that the official code keeps in its state."""


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


def by_halves(values: Mapping[str, Tensor], rules: Mapping[str, Rule]) -> tuple[dict[str, Tensor], Rules]:
    """Return values and rules with two for each value whose halves have different destinations."""
    values, found = dict(values), {}
    for key, rule in rules.items():
        if not rule.second_half:
            found[key] = rule
            continue
        first, second = f"{key} (first half)", f"{key} (second half)"
        found |= {first: rule._replace(second_half=""), second: rule._replace(ours=rule.second_half, second_half="")}
        if key in values:
            values |= dict(zip((first, second), values.pop(key).tensor_split(2), strict=True))
    return values, found


def without_constants(values: Mapping[str, Tensor], rules: Mapping[str, Rule]) -> tuple[dict[str, Tensor], Rules]:
    """Return values and rules without the official code's constants. Raise ``ValueError`` for one of another value."""
    for key, rule in rules.items():
        if rule.constant is None or key not in values:
            continue
        value = values[key].detach().cpu().to(rule.constant.dtype)
        if value.shape != rule.constant.shape or not torch.allclose(
            value, rule.constant, atol=1e-3
        ):  # saved in half precision, too
            raise ValueError(f"state_dict[{key!r}] is a constant that is not that of a module with this spec")
    return (
        {key: value for key, value in values.items() if key not in rules or rules[key].constant is None},
        {key: rule for key, rule in rules.items() if rule.constant is None},
    )


def nested(official: str, ours: str, rules: Iterable[tuple[str, Rule]]) -> Items:
    """Yield the rules of a module inside another one."""
    for key, rule in rules:
        yield f"{official}.{key}", rule._replace(ours=f"{ours}.{rule.ours}")
