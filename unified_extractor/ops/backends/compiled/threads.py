"""Work shared among as many threads as torch uses.

On Linux these are torch's own: its OpenMP threads spin for a while after every operation, and other threads would have to wait for a
core. Elsewhere a pool of Python threads does it; the loops hold no interpreter lock. Either obeys ``torch.set_num_threads`` at every
call and may be called from several threads at once.
"""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import pairwise
from typing import Any

import torch

_GRAIN = 2**21
"""Multiply-adds that are worth a thread: about a tenth of a millisecond, what it takes to start one."""
_Region = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def parallel_for(run: Callable[[int, int], None], items: int, multiply_adds: int) -> None:
    """Call ``run(start, stop)`` for pieces of ``range(items)``, one a thread; ``multiply_adds``: of all items."""
    count = max(1, min(torch.get_num_threads(), items, multiply_adds // _GRAIN))
    if count == 1:
        run(0, items)
        return
    pieces = list(pairwise(items * piece // count for piece in range(count + 1)))
    if (openmp := _openmp()) is not None:
        _run_in_region(openmp, run, pieces)
    else:
        others = [_pool().submit(run, *piece) for piece in pieces[1:]]
        try:
            run(*pieces[0])
        finally:
            wait(others)
        for other in others:
            other.result()


def _run_in_region(openmp: Any, run: Callable[[int, int], None], pieces: list[tuple[int, int]]) -> None:
    """Run the pieces in a parallel region of torch's OpenMP."""
    remaining, errors = iter(pieces), []

    def run_pieces(_: int | None) -> None:
        try:
            for start, stop in remaining:
                run(start, stop)
        except BaseException as error:  # it must not leave the region
            errors.append(error)

    openmp(_Region(run_pieces), None, len(pieces), 0)
    if errors:
        raise errors[0]


@cache
def _openmp() -> Any:
    """Return GNU OpenMP's entry to a parallel region, which LLVM's has too; None where torch brought neither into the process."""
    try:
        return ctypes.CDLL(None).GOMP_parallel if torch.backends.openmp.is_available() else None
    except (AttributeError, OSError, TypeError):
        return None


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="unified_extractor")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
