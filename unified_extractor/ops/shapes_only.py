"""A mark of the time in which calls on the meta device are made for the shape of their result alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

SHAPES_ONLY: ContextVar[bool] = ContextVar("shapes_only", default=False)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Let calls on the meta device sample two taps instead of all: the third tells no more of a shape than the second.

    What counts operations or bytes of such calls must not be in this context.
    """
    token = SHAPES_ONLY.set(True)
    try:
        yield
    finally:
        SHAPES_ONLY.reset(token)
