"""Copies among image files: files with equal bytes, which would leak from training into validation or the test."""

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

LIMIT = 100_000
"""Largest number of files among which copies are looked for: beyond it, looking would delay a run by minutes."""
_HEAD = 16 * 1024
_CHUNK = 500


class CopyFinder:
    """A comparison of files by size first, then by their first bytes, and only then by all of them.

    Nothing about a file is read twice. A file that cannot be read is no copy.
    """

    def __init__(self) -> None:
        self._known: list[dict[Path, Hashable]] = [{} for _ in _KEYS]

    def find(self, files: Sequence[Path], originals: Sequence[Path]) -> list[int]:
        """Return the indices of those files that have the same bytes as one of the originals."""
        chosen, others = list(range(len(files))), list(originals)
        for key, known in zip(_KEYS, self._known, strict=True):
            _look_up(key, [*(files[index] for index in chosen), *others], known)
            shared = {known[files[index]] for index in chosen} & {known[path] for path in others} - {None}
            chosen = [index for index in chosen if known[files[index]] in shared]
            others = [path for path in others if known[path] in shared]
        return chosen


def leaks(finder: CopyFinder, files: Mapping[str, Sequence[Path]]) -> list[str]:
    """Return a text for each split whose folder holds copies of training images, given the image files of each split's folder."""
    if "train" not in files:
        return []
    if sum(map(len, files.values())) > LIMIT:
        return [f"copies of training images were not looked for among more than {LIMIT:,} files"]
    found = {split: finder.find(files[split], files["train"]) for split in sorted(files.keys() - {"train"})}
    return [
        f"WARNING: {len(copies):,} {split} images are copies of training images, one is {files[split][copies[0]]}"
        for split, copies in found.items()
        if copies
    ]


def _look_up(key: Callable[[Path], Hashable], paths: Sequence[Path], known: dict[Path, Hashable]) -> None:
    """Add the key of every path that is not known yet; threads help where files lie on another machine."""
    new = [path for path in dict.fromkeys(paths) if path not in known]
    chunks = [new[start : start + _CHUNK] for start in range(0, len(new), _CHUNK)]
    with ThreadPoolExecutor() as threads:
        for chunk, values in zip(chunks, threads.map(lambda chunk: [key(path) for path in chunk], chunks), strict=True):
            known.update(zip(chunk, values, strict=True))


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
        with path.open("rb", buffering=0) as file:
            return hashlib.blake2b(file.read(count), digest_size=16).digest()
    except OSError:
        return None


_KEYS: tuple[Callable[[Path], Hashable], ...] = (_size, _head, _whole)
