"""The environment on which a result depends beside its configuration: versions, device and commit; and the unique name of a
run."""

import json
import platform
import socket
import subprocess
import sys
import uuid
from importlib import metadata
from pathlib import Path
from typing import Any

import lightning as L
import torch

from unified_extractor.results.record import write_whole

PACKAGES = ("torch", "torchvision", "lightning", "triton", "numba", "numpy", "unified-extractor")


def write_environment(folder: Path, config_hash: str) -> str:
    """Write ``environment.json`` into the run's folder, or ``environment.1.json`` when the run is resumed. Return the run's
    unique name."""
    earlier = len(list(folder.glob("environment*.json")))  # the run's name stays what it was when the run is resumed
    run = read_environment(folder).get("run") or uuid.uuid4().hex
    content = {
        "run": run,
        "config_hash": config_hash,
        "command": sys.argv,
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "versions": versions(),
        **commit(),
    }
    name = f"environment.{earlier}.json" if earlier else "environment.json"
    write_whole(folder / name, json.dumps(content, indent=2) + "\n")
    return str(run)


def read_environment(folder: Path) -> dict[str, Any]:
    """Return the content of a run's ``environment.json``; it is empty if the file is missing or damaged."""
    try:
        content: dict[str, Any] = json.loads((folder / "environment.json").read_text())
    except (OSError, ValueError):
        return {}
    return content


def versions() -> dict[str, str]:
    """Return the versions of Python and of those installed packages on which a result depends."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found | {"torch": torch.__version__, "lightning": L.__version__}


def device_name(device: torch.device) -> str:
    """Return the name of a device: that of the accelerator, or the architecture of the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {platform.machine()}"


def commit() -> dict[str, Any]:
    """Return the ``commit`` of the checkout that holds this package, and ``dirty`` if it has changes; both are ``None``
    without a checkout."""
    here = Path(__file__).parent
    try:
        top = _git("rev-parse", "--show-toplevel", at=here)
        if Path(top) != here.parents[2].resolve():  # installed into somebody else's checkout
            return {"commit": None, "dirty": None}
        return {"commit": _git("rev-parse", "HEAD", at=here), "dirty": bool(_git("status", "--porcelain", "-uno", at=here))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def _git(*arguments: str, at: Path) -> str:
    return subprocess.run(["git", "-C", str(at), *arguments], capture_output=True, text=True, check=True).stdout.strip()
