"""The result file of a part of ``uniex gpu``: written as the part goes, and whole when it says so."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from unified_extractor.profiling.meters import software


class Results:
    """A part's result file. It is written at every change, and says at the end that it is complete."""

    def __init__(self, file: Path, toy: bool) -> None:
        self.file = file
        self.content: dict[str, Any] = {"complete": False, **identity(toy), "machine": {}, "failures": []}
        self._before = content_of(file, toy)

    def before(self, name: str) -> Any:
        """Return an entry of the file that an earlier run, cut short, left for the same device and sources; None without one."""
        return self._before.get(name)

    def write(self, **changed: Any) -> None:
        """Change some entries and write the file."""
        self.content |= changed
        temporary = self.file.with_suffix(".part")
        temporary.write_text(json.dumps(self.content, indent=1) + "\n")
        temporary.replace(self.file)


def identity(toy: bool) -> dict[str, Any]:
    """Return what a result belongs to: the device, the versions and the sources of this package."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "Triton's interpreter"
    return {"device": device, "sources": _sources(), "toy": toy, **software()}


def _sources() -> str:
    """Return a digest of the package's files; a machine with a GPU may have them without their history."""
    root, digest = Path(__file__).parents[2], hashlib.sha256()
    rooms = ("ops", "layers", "models", "data", "training", "benchmarks")
    for path in sorted(path for room in rooms for path in (root / room).rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def is_complete(file: Path, toy: bool) -> bool:
    """Return whether a result file is there, whole, and of this device and these sources."""
    return bool(content_of(file, toy).get("complete"))


def content_of(file: Path, toy: bool) -> dict[str, Any]:
    """Return what a result file of this device and these sources holds; nothing if there is none."""
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if all(found.get(name) == value for name, value in identity(toy).items()) else {}


def failed_before(file: Path) -> bool:
    """Return whether a result file tells of failures."""
    return bool(json.loads(file.read_text())["failures"])
