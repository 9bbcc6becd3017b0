"""Grids of tiny runs on digits."""

from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
CALLBACKS = "tests.sweeps.callbacks"


def write_grid(folder: Path, **changes: Any) -> Path:
    """A grid of one variant and two seeds; ``changes`` are its keys, ``None`` leaves a key out."""
    config = {
        "threads": 1,
        "model": {
            "optimization": {"learning_rate": 0.01},
            "network": {
                "class_path": "unified_extractor.models.ExtractorNet",
                "init_args": {
                    "num_classes": 10,
                    "in_chans": 1,
                    "widths": [8],
                    "depths": [1],
                    "spec": {"kernel_size": 3, "static_kernel": {"channels": "dense"}},
                },
            },
        },
        "data": {"class_path": "unified_extractor.data.Digits", "init_args": {"batch_size": 128}},
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False},
    }
    (folder / "grids").mkdir(exist_ok=True)
    (folder / "grids" / "tiny.yaml").write_text(yaml.safe_dump(config))
    grid = {"name": "question", "config": "tiny.yaml", "variants": {"plain": {}}, "seeds": [0, 1], **changes}
    file = folder / "grids" / "grid.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in grid.items() if value is not None}, sort_keys=False))
    return file


def callback(name: str, **arguments: Any) -> dict[str, Any]:
    """The option that adds one of the callbacks of these tests."""
    return {"trainer.callbacks": [{"class_path": f"{CALLBACKS}.{name}", "init_args": arguments}]}
