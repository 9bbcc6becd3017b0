"""The function that repeats a recorded call: its steps, written as lines of Python with other tensors in their places.

A step of an interpreter that looks up every tensor costs more than what the step does on the host; a line of a function does not.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch


class Place(NamedTuple):
    """A tensor's place among those of a call."""

    number: int


class Step(NamedTuple):
    """A torch operation or a launch, with places instead of tensors."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    """The arguments by name, without tensors."""
    results: Any
    """The place of the resulting tensor, or a tuple of places; None without one."""


def repetition(inputs: int, steps: Sequence[Step], result: Any) -> Callable[..., Any]:
    """Return the function of the first ``inputs`` tensors that runs the steps and returns ``result``, which has places for tensors.

    A tensor that no later step uses is forgotten, so that its memory serves the next.
    """
    constants: dict[str, Any] = {"record": tuple.__new__}
    lines: list[str] = []
    used = numbers(result)
    returned = _text(result, constants)
    for step in reversed(steps):
        arguments = [_text(value, constants) for value in step.arguments]
        arguments += [f"{name}={_text(value, constants)}" for name, value in step.named.items()]
        target = "" if step.results is None else f"{_text(step.results, constants)} = "
        here = numbers(step.arguments) | numbers(step.results)
        lines += [f"del {', '.join(f't{number}' for number in sorted(here - used))}"] if here - used else []
        lines += [f"{target}{_text(step.function, constants)}({', '.join(arguments)})"]
        used |= here
    body = [*reversed(lines), f"return {returned}"]
    header = f"def repeat({', '.join(f't{number}' for number in range(inputs))}):"
    # As in dataclasses: the text has names of ours and nothing else.
    exec("\n    ".join([header, *body]), constants)
    repeat: Callable[..., Any] = constants["repeat"]
    return repeat


def numbers(value: Any) -> set[int]:
    """Return the numbers of all places in a value."""
    if type(value) is Place:
        return {value.number}
    return set().union(*map(numbers, value)) if isinstance(value, tuple | list) else set()


def _text(value: Any, constants: dict[str, Any]) -> str:
    """Return the Python of a value; what has no place in it becomes a constant of its own."""
    kind = type(value)
    if kind is Place:
        return f"t{value.number}"
    if kind is torch.Size or not numbers(value):
        name = f"c{len(constants)}"
        constants[name] = value
        return name
    parts = "".join(f"{_text(part, constants)}, " for part in value)
    if kind is list:
        return f"[{parts}]"
    return f"({parts})" if kind is tuple else f"record({_text(kind, constants)}, ({parts}))"
