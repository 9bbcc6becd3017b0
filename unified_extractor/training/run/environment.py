"""What a number depends on beside its configuration: versions, device, commit. And the run's own name among all runs."""

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
    """``environment.json`` in the run's folder, ``environment.1.json`` where it is resumed, ... Returns the run's name, kept then."""
    earlier = len(list(folder.glob("environment*.json")))
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
    """What ``environment.json`` of a run says; nothing where it is missing or damaged."""
    try:
        content: dict[str, Any] = json.loads((folder / "environment.json").read_text())
    except (OSError, ValueError):
        return {}
    return content


def versions() -> dict[str, str]:
    """Versions of Python and of the packages on which a number depends, of those that are there."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found | {"torch": torch.__version__, "lightning": L.__version__}


def device_name(device: torch.device) -> str:
    """The device in words: the accelerator's name, or the processor's architecture."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {platform.machine()}"


def commit() -> dict[str, Any]:
    """``commit`` of the checkout this package lies in and whether it is ``dirty``; both ``None`` without one."""
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
