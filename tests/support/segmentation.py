"""Tiny segmentation data sets and runs: images whose color says the class of each pixel."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.support.tiny_runs import write_changed

CLASSES = "name,red,green,blue\nsky,10,20,200\nroad,90,90,90\ncar,200,0,0\n"
IGNORED = 7
SIZE = (10, 12)
COUNTS = {"train": 8, "val": 3, "test": 3}


def segmentation_folder(root: Path, *, size: tuple[int, int] = SIZE, counts: dict[str, int] = COUNTS) -> Path:
    """Write images and label maps of three classes, with some pixels that are ignored, as ``SegmentationFolder`` reads them."""
    random = np.random.default_rng(0)
    for split, count in counts.items():
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True)
        for index in range(count):
            labels = random.integers(0, 3, (-(-size[0] // 4), -(-size[1] // 4))).repeat(4, 0).repeat(4, 1)[: size[0], : size[1]]
            noise = random.integers(0, 40, (*size, 3))
            image = np.array([[30, 60, 200], [90, 90, 90], [200, 40, 40]])[labels] + noise
            labels[0, :2] = IGNORED
            Image.fromarray(image.astype(np.uint8)).save(root / split / "images" / f"{index}.png")
            Image.fromarray(labels.astype(np.uint8)).save(root / split / "labels" / f"{index}.png")
    (root / "classes.csv").write_text(CLASSES)
    return root


def write_segmentation_config(folder: Path, root: Path, **changes: Any) -> Path:
    """Write the run of a tiny network on such a folder; ``changes`` are dotted keys with ``__`` for the dot."""
    backbone = {
        "class_path": "unified_extractor.models.ExtractorNet",
        "init_args": {
            "widths": [8, 16],
            "depths": [1, 1],
            "stem_stride": 2,
            "spec": "involution(kernel_size=3, channels_per_group=4)",
        },
    }
    network = {
        "class_path": "unified_extractor.models.SegmentationNet",
        "init_args": {"num_classes": 3, "channels": 8, "backbone": backbone},
    }
    augmentation = {"scale": [0.8, 1.25], "flip": True, "color_jitter": 0.1}
    data = {"root": str(root), "image_size": list(SIZE), "ignore_index": IGNORED, "name": "scenes", "batch_size": 4}
    config: dict[str, Any] = {
        "threads": 1,
        "model": {
            "optimization": {"learning_rate": 0.02, "warmup_epochs": 0},
            "class_weights": "median_frequency",
            "network": network,
        },
        "data": {
            "class_path": "unified_extractor.data.SegmentationFolder",
            "init_args": {**data, "augmentation": augmentation},
        },
        "trainer": {"max_epochs": 8, "accelerator": "cpu", "enable_progress_bar": False},
        "run": {"name": "scenes"},
    }
    return write_changed(folder / "scenes.yaml", config, changes)
