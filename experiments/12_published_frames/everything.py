"""Run the whole study on one GPU, most decisive part first; stopped, or out of its minutes, the same command goes on.

    python experiments/12_published_frames/everything.py --workers 6 --minutes 8

What must last from call to call are the folders runs/ and experiments/12_published_frames/results/. Further options are those of run.py.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

RUN = Path(__file__).parents[1] / "run.py"
PARTS = (
    ("resnet20", "epochs_20", "cifar100_all"),
    ("fast_net", "epochs_20", "cifar100_all"),
    ("resnet20", "epochs_200", "cifar100_yardstick", "--only=convolution", "--seeds=3"),
    ("resnet20", "epochs_80", "cifar100_all"),
    ("fast_net", "epochs_80", "cifar100_all"),
    ("resnet20", "epochs_80", "cifar100_strong"),
    ("fast_net", "epochs_80", "cifar100_strong"),
    ("resnet20", "epochs_20", "cifar100_strong"),
    ("fast_net", "epochs_20", "cifar100_strong"),
)
"""Grid, budget and data of every part, and further options."""
STOPPED = 130


def main() -> int:
    parser = argparse.ArgumentParser("everything.py", description="Run the whole study on one GPU, most decisive part first.")
    parser.add_argument("--minutes", type=float, help="stop after so long; the same command goes on")
    given, others = parser.parse_known_args()
    end = None if given.minutes is None else time.monotonic() + 60 * given.minutes
    worst = 0
    for grid, budget, data, *own in PARTS:
        left = None if end is None else (end - time.monotonic()) / 60
        if left is not None and left <= 0:
            return STOPPED
        command = [
            sys.executable,
            str(RUN),
            Path(__file__).parent.name,
            "--grid",
            grid,
            "--budget",
            budget,
            "--data",
            data,
            *own,
            *others,
        ]
        code = subprocess.run([*command, *([] if left is None else [f"--minutes={left}"])], check=False).returncode
        if code == STOPPED:
            return code
        worst = max(worst, code)
    return worst


if __name__ == "__main__":
    sys.exit(main())
