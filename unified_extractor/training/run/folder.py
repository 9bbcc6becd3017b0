"""Where a run keeps its files: ``<root>/<name>/version_<N>``, one folder a run, never written by two processes."""

from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from unified_extractor.training.errors import ConfigurationError
from unified_extractor.training.run.checkpoints import CHECKPOINTS, newest_checkpoint

RECORD = "record.json"
_LOCK = ".lock"
_held: list[FileLock] = []


@dataclass(frozen=True)
class Claim:
    """A folder that this process may write: ``checkpoint`` is the one to go on from, ``None`` at a start."""

    folder: Path
    checkpoint: Path | None


class RunFolder:
    """Names the folders of runs, and says what their records are filed under.

    Args:
        name: of the run, may contain ``/``.
        root: the folder under which all runs lie.
        question: what the run is part of; written into its record.
        variant: what its record is compared as; by default the last part of the name.
        budget: the class of its cost, such as ``cpu``; records of different budgets never share a table.

    Raises:
        ConfigurationError: the folder cannot be made.
    """

    def __init__(
        self, name: str = "run", root: str = "runs", question: str = "", variant: str | None = None, budget: str = ""
    ) -> None:
        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"name must be a relative path without '..', got {name!r}")
        self.name, self.path = name, Path(root) / name
        self.question, self.variant, self.budget = question, variant or Path(name).name, budget

    def claim(self, *, go_on: bool) -> Claim:
        """Make a new folder, or ``go_on`` with the newest unfinished one that has a whole checkpoint, and lock it.

        The lock is the operating system's: it ends with the process, however that ends.

        Raises:
            ConfigurationError: it cannot be made, or ``go_on`` with a run that is finished, or that another process writes.
        """
        with self._choosing():
            if go_on:
                for folder in self._versions():
                    if _locked(folder):
                        raise ConfigurationError(f"run: {folder} is being written by another process")
                    if (folder / RECORD).exists():
                        raise ConfigurationError(f"run: {folder} is finished, there is nothing to go on with")
                    if checkpoint := newest_checkpoint(folder / CHECKPOINTS):
                        _hold(folder)
                        return Claim(folder, checkpoint)
            newest = self.newest()
            folder = self.path / f"version_{_number(newest) + 1 if newest else 0}"
            _make(folder)
            _hold(folder)
            return Claim(folder, None)

    def found(self, *, go_on: bool) -> Claim:
        """What the first process has claimed or is about to claim, for the other processes of the run, which write nothing."""
        newest = self.newest() or self.path / "version_0"
        for folder in self._versions() if go_on else ():
            if (folder / RECORD).exists():
                break
            if checkpoint := newest_checkpoint(folder / CHECKPOINTS):
                return Claim(folder, checkpoint)
        return Claim(newest, None)

    def newest(self) -> Path | None:
        """The newest folder of this name."""
        return next(iter(self._versions()), None)

    def current(self) -> Path | None:
        """The newest folder that has come to something: a record, or a checkpoint."""
        return next((one for one in self._versions() if (one / RECORD).exists() or any((one / CHECKPOINTS).glob("*.ckpt"))), None)

    def finished(self) -> Path | None:
        """The current folder, if it holds a record."""
        current = self.current()
        return current if current is not None and (current / RECORD).is_file() else None

    def running(self) -> bool:
        """Whether a process, perhaps on another machine, writes the newest folder now."""
        newest = self.newest()
        return newest is not None and _locked(newest)

    def _versions(self) -> list[Path]:
        """The folders of this name, the newest first."""
        numbered = [folder for folder in self.path.glob("version_*") if folder.name.removeprefix("version_").isdecimal()]
        return sorted(numbered, key=_number, reverse=True)

    def _choosing(self) -> FileLock:
        """Held while a folder is chosen: two processes that start at once choose one after the other."""
        _make(self.path, exist_ok=True)
        return FileLock(self.path / _LOCK, is_singleton=False)


def release_locks() -> None:
    """Let other processes go on with the folders that this one has claimed."""
    while _held:
        _held.pop().release()


def _hold(folder: Path) -> None:
    lock = FileLock(folder / _LOCK, is_singleton=False)
    lock.acquire(timeout=1)  # whoever asks whether it runs holds the lock for an instant
    _held.append(lock)


def _locked(folder: Path) -> bool:
    if not (folder / _LOCK).is_file():
        return False
    lock = FileLock(folder / _LOCK, is_singleton=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    lock.release()
    return False


def _number(folder: Path) -> int:
    return int(folder.name.removeprefix("version_"))


def _make(folder: Path, *, exist_ok: bool = False) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=exist_ok)
    except FileExistsError:
        raise ConfigurationError(f"run: cannot make {folder}: a file is in the way") from None
    except OSError as error:
        raise ConfigurationError(f"run: cannot make {folder}: {error.strerror}") from error
