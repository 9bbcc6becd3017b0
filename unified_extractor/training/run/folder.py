"""The folder of a run, ``<root>/<name>/version_<N>``, which only one process at a time may write."""

from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from unified_extractor.results.choosing import chooses
from unified_extractor.training.errors import ConfigurationError
from unified_extractor.training.run.checkpoints import CHECKPOINTS, newest_checkpoint

RECORD = "record.json"
_LOCK = ".lock"
_held: list[FileLock] = []


@dataclass(frozen=True)
class Claim:
    """A folder that this process may write. ``checkpoint`` is the one from which to resume, or ``None`` for a new run."""

    folder: Path
    checkpoint: Path | None


class RunFolder:
    """The folders of all runs of one name, and the labels under which their records are compared.

    Args:
        name: name of the run, may contain ``/``.
        root: folder of all runs.
        question: question that the run is part of; written into its record.
        variant: name under which the record is compared; by default the last part of ``name``.
        budget: class of the run's cost, such as ``cpu``; records of different budgets never share a table. Runs of a budget called
            ``screen``, or ``gpu_screen`` and the like, are made to choose something: they look at no test image.

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

    @property
    def tests(self) -> bool:
        """Return whether the best epoch is tested: no run by which something is chosen looks at a test image."""
        return not chooses(self.budget)

    def claim(self, *, go_on: bool) -> Claim:
        """Make and lock a new folder. With ``go_on``, lock the newest unfinished folder that has an undamaged checkpoint
        instead.

        The lock is one of the operating system, so it ends with the process, however that ends.

        Raises:
            ConfigurationError: the folder cannot be made, or with ``go_on`` the run is finished or is written by another process.
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
        """Return the folder that the first process claims, for the other processes of the run, which write nothing."""
        newest = self.newest() or self.path / "version_0"
        for folder in self._versions() if go_on else ():
            if (folder / RECORD).exists():
                break
            if checkpoint := newest_checkpoint(folder / CHECKPOINTS):
                return Claim(folder, checkpoint)
        return Claim(newest, None)

    def newest(self) -> Path | None:
        """Return the newest folder of this name."""
        return next(iter(self._versions()), None)

    def current(self) -> Path | None:
        """Return the newest folder that holds a record or a checkpoint."""
        return next((one for one in self._versions() if (one / RECORD).exists() or any((one / CHECKPOINTS).glob("*.ckpt"))), None)

    def finished(self) -> Path | None:
        """Return the current folder if it holds a record."""
        current = self.current()
        return current if current is not None and (current / RECORD).is_file() else None

    def running(self) -> bool:
        """Return True while a process, perhaps on another machine, writes the newest folder."""
        newest = self.newest()
        return newest is not None and _locked(newest)

    def _versions(self) -> list[Path]:
        """Return the folders of this name, the newest first."""
        numbered = [folder for folder in self.path.glob("version_*") if folder.name.removeprefix("version_").isdecimal()]
        return sorted(numbered, key=_number, reverse=True)

    def _choosing(self) -> FileLock:
        """Return the lock for choosing a folder: two processes that start at once choose one after the other."""
        _make(self.path, exist_ok=True)
        return FileLock(self.path / _LOCK, is_singleton=False)


def release_locks() -> None:
    """Release the locks of all folders that this process has claimed."""
    while _held:
        _held.pop().release()


def _hold(folder: Path) -> None:
    lock = FileLock(folder / _LOCK, is_singleton=False)
    lock.acquire(timeout=1)  # a process that asks whether the run is running holds the lock for an instant
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
