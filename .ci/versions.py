"""Try an end of the stated versions in a fresh environment, and keep what came of it in `.ci/versions.json`.

    python .ci/versions.py oldest      (torch, torchvision, lightning and timm as old as pyproject.toml allows; Triton is torch's own)
    python .ci/versions.py newest      (all of them as new as there is)

Either fetches about 3 GB, needs 8 GB of disk while it runs, and takes some minutes. The environment is deleted afterwards.
"""

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).with_suffix(".json")
TRIED = ("torch", "torchvision", "lightning", "timm")
"""The packages whose ends are tried."""
SHOWN = (*TRIED, "triton", "einops", "numpy", "jsonargparse", "torchmetrics", "numba", "onnx", "onnxscript")
TESTS = (
    "tests/test_extras.py",
    "tests/test_recipes.py",
    "tests/ops/test_against_torch.py",
    "tests/ops/test_triton_columns.py",
    "tests/layers/test_presets.py",
    "tests/interop/test_timm.py",
    "tests/training/test_loading.py",
)
"""Tests that use much of these packages in few minutes: operator, Triton's interpreter, layers, networks, command line, training."""


def requirements(end: str) -> list[str]:
    """Return what pip installs for an end: the stated minimum of a package, exactly, or the package alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stated = [*project["dependencies"], *project["optional-dependencies"]["train"], *project["optional-dependencies"]["interop"]]
    minima = dict(found.groups() for line in stated if (found := re.fullmatch(r"([\w-]+)>=([\d.]+)", line)))
    return [f"{name}=={minima[name]}" for name in TRIED] if end == "oldest" else list(TRIED)


def installed(end: str, folder: Path) -> Path:
    """Install an end into a folder, and return its Python."""
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    python = folder / "env" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir", "--upgrade"]
    subprocess.run([*pip, *requirements(end), f"{ROOT}[all]", "pytest", "onnxruntime"], check=True)
    return python


def tried(python: Path) -> dict[str, object]:
    """Run the tests by a Python, and return its versions and what came of them."""
    code = f"from importlib.metadata import version; print(*[version(name) for name in {SHOWN}])"
    versions = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    command = [python, "-m", "pytest", "-o", "addopts=", *TESTS]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    print(said[-6000:])
    outcomes = [line.strip("= ") for line in said.splitlines() if re.search(r"\d+ (passed|failed|error)", line)]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": dict(zip(SHOWN, versions, strict=True)),
        "tests": list(TESTS),
        "outcome": outcomes[-1] if outcomes else "no test ran",
        "failed": re.findall(r"^FAILED (.+?)(?: - .*)?$", said, re.MULTILINE),
    }


def main() -> int:
    """Try an end and keep its result. Return 1 if a test failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("end", choices=("oldest", "newest"))
    end = parser.parse_args().end
    with tempfile.TemporaryDirectory() as folder:
        found = tried(installed(end, Path(folder)))
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    RESULT.write_text(json.dumps(results | {end: found}, indent=2) + "\n")
    print(json.dumps(found, indent=2))
    return int(bool(found["failed"]) or "passed" not in str(found["outcome"]))


if __name__ == "__main__":
    sys.exit(main())
