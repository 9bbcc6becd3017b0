"""Copies among image files: files with equal bytes, which would leak from training into validation or the test."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

LIMIT = 100_000
"""Largest number of files among which copies are looked for: beyond it, looking would delay a run by minutes."""
_HEAD = 16 * 1024


def find_copies(files: Sequence[Path], originals: Sequence[Path]) -> list[int]:
    """Return the indices of those files that have the same bytes as one of the originals.

    Files are compared by size first, then by their first bytes, and only then by all of them. A file that cannot be read is no copy.
    """
    chosen, others = list(range(len(files))), list(originals)
    with ThreadPoolExecutor() as threads:
        for key in _KEYS:
            own = list(threads.map(key, (files[index] for index in chosen)))
            theirs = list(threads.map(key, others))
            shared = (set(own) & set(theirs)) - {None}
            chosen = [index for index, value in zip(chosen, own, strict=True) if value in shared]
            others = [path for path, value in zip(others, theirs, strict=True) if value in shared]
    return chosen


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _head(path: Path) -> bytes | None:
    return _digest(path, _HEAD)


def _whole(path: Path) -> bytes | None:
    return _digest(path, -1)


def _digest(path: Path, count: int) -> bytes | None:
    try:
        with path.open("rb") as file:
            return hashlib.blake2b(file.read(count), digest_size=16).digest()
    except OSError:
        return None


_KEYS: tuple[Callable[[Path], int | bytes | None], ...] = (_size, _head, _whole)
