"""Where a run keeps its files: ``<root>/<name>/version_<N>``, one folder a run, never written by two."""

from pathlib import Path

from unified_extractor.training.errors import ConfigurationError

CHECKPOINTS = "checkpoints"
RECORD = "record.json"


class RunFolder:
    """Names the folders of runs.

    Args:
        name: of the run, may contain ``/``.
        root: the folder under which all runs lie.

    Raises:
        ConfigurationError: the folder cannot be made.
    """

    def __init__(self, name: str = "run", root: str = "runs") -> None:
        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"name must be a relative path without '..', got {name!r}")
        self.name, self.path = name, Path(root) / name

    def next(self) -> Path:
        """The next ``version_<N>``, not made yet."""
        return self.path / f"version_{max((number for number, _ in self._versions()), default=-1) + 1}"

    def claim(self, folder: Path) -> bool:
        """Make that folder. False if another process has made it meanwhile."""
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if folder.is_dir():
                return False
            raise ConfigurationError(f"run: cannot make {folder}: a file is in the way") from None
        except OSError as error:
            raise ConfigurationError(f"run: cannot make {folder}: {error.strerror}") from error
        return True

    def unfinished(self) -> Path | None:
        """The newest folder that has a checkpoint to go on from and no record of a result yet."""
        for _, folder in sorted(self._versions(), reverse=True):
            if (folder / CHECKPOINTS / "last.ckpt").is_file() and not (folder / RECORD).exists():
                return folder
        return None

    def _versions(self) -> list[tuple[int, Path]]:
        numbered = ((folder.name.removeprefix("version_"), folder) for folder in self.path.glob("version_*"))
        return [(int(number), folder) for number, folder in numbered if number.isdecimal()]
