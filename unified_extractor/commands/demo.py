"""The command ``uniex demo``: the same small network trained with five extractors, a table of them, and pictures."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from unified_extractor.commands import report, visualize
from unified_extractor.recipes import recipe_file
from unified_extractor.training.cli import training_cli

EXTRACTORS = ("convolution", "deformable_convolution", "involution", "outlook_attention", "unified")
_IMAGE = 3
"""The number of the test image in the picture, an 8."""


def main(arguments: Sequence[str] = ()) -> int:
    """Train, print the table and draw the pictures. Return the exit code."""
    parser = argparse.ArgumentParser(
        "uniex demo",
        description="Train the same small network with five extractors on handwritten digits that need no download: about a minute on one "
        "core. Each run is the uniex fit that its recipe states, table and pictures are those of uniex report and uniex visualize.",
    )
    parser.add_argument("--root", type=Path, default=Path("runs/first_look"), help="where the folders 1, 2, ... of its runs lie")
    return demo(parser.parse_args(arguments).root)


def demo(root: Path, extractors: Sequence[str] = EXTRACTORS, options: Sequence[str] = ()) -> int:
    """Train with some extractors, each by its recipe and further options of ``uniex fit``, and draw. Return the exit code."""
    torch.set_num_threads(1)  # on images of 8x8 pixels a second thread costs more than it gives
    folder = next_folder(root)
    for name in extractors:
        recipe = ["--config", str(recipe_file(f"digits/{name}")), "--run.root", str(folder)]
        if code := training_cli.main(["fit", *recipe, *options]):
            return code
    runs = [str(folder / "digits" / name) for name in extractors]
    pictures = ["--output", str(folder / "windows.png"), "--image", str(_IMAGE)]
    return report.main([*runs, "--output", str(folder)]) or visualize.main([*runs, *pictures])


def next_folder(root: Path) -> Path:
    """Return the first of root/1, root/2, ... that does not exist: nothing is overwritten."""
    return next(folder for number in range(1, 10_000) if not (folder := root / str(number)).exists())
