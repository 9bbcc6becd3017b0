"""What every network checks of its sizes."""

from collections.abc import Sequence


def check_sizes(name: str, values: Sequence[int]) -> None:
    """All are ints of at least 1. Raises ``TypeError`` or ``ValueError`` that names the argument."""
    if not isinstance(values, list | tuple) or any(isinstance(v, bool) or not isinstance(v, int) for v in values):
        raise TypeError(f"{name} must be made of ints, got {values!r}")
    if any(value < 1 for value in values):
        raise ValueError(f"{name} must be at least 1, got {values!r}")
