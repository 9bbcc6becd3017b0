"""Train the same small network with five extractors, then print the table and draw the pictures. `make demo` runs this.

Every run is the `uniex fit` that its config's header states; table and pictures are those of `uniex report` and `uniex visualize`.
"""

import sys
from pathlib import Path

import torch

from unified_extractor.__main__ import main as uniex

CONFIGS = Path(__file__).parents[2] / "configs" / "digits"
EXTRACTORS = ("convolution", "deformable_convolution", "involution", "outlook_attention", "unified")


def next_folder(root: Path) -> Path:
    """Return the first of root/1, root/2, ... that does not exist: nothing is overwritten."""
    return next(folder for n in range(1, 10_000) if not (folder := root / str(n)).exists())


def main() -> int:
    torch.set_num_threads(1)  # on images of 8x8 pixels a second thread costs more than it gives
    folder = next_folder(Path("runs") / "first_look")
    for name in EXTRACTORS:
        if code := uniex(["fit", "--config", str(CONFIGS / f"{name}.yaml"), "--run.root", str(folder)]):
            return code
    runs = [str(folder / "digits" / name) for name in EXTRACTORS]
    pictures = ["--output", str(folder / "windows.png"), "--image", "3"]
    return uniex(["report", *runs, "--output", str(folder)]) or uniex(["visualize", *runs, *pictures])


if __name__ == "__main__":
    sys.exit(main())
