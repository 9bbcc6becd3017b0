"""Grids of tiny runs on digits."""

import signal
from pathlib import Path
from typing import Any

import yaml

from tests.support.tiny_runs import tiny_config

REPOSITORY = Path(__file__).parents[2]
CALLBACKS = "tests.support.sweep_callbacks"


def write_grid(folder: Path, **changes: Any) -> Path:
    """A grid of one variant and two seeds; ``changes`` are its keys, ``None`` leaves a key out."""
    (folder / "grids").mkdir(exist_ok=True)
    (folder / "grids" / "tiny.yaml").write_text(yaml.safe_dump(tiny_config()))
    grid = {"name": "question", "config": "tiny.yaml", "variants": {"plain": {}}, "seeds": [0, 1], **changes}
    file = folder / "grids" / "grid.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in grid.items() if value is not None}, sort_keys=False))
    return file


def heed_interrupts() -> None:
    """Take Ctrl-C as usual: a shell that runs the tests in the background has it ignored, in all that they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def callback(name: str, **arguments: Any) -> dict[str, Any]:
    """The option that adds one of the callbacks of these tests."""
    return {"trainer.callbacks": [{"class_path": f"{CALLBACKS}.{name}", "init_args": arguments}]}
