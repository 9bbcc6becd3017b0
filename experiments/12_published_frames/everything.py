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
DECISIVE = ("unified-without_offsets", "depthwise_3x3@equal_multiply_adds", "depthwise_7x7", "depthwise_3x3", "convolution")
"""The arms of the decision, and the convolution."""
BASELINES = ("gate", "involution_7x7", "deformable_v4", "outlook", "deformable_v2")
PLAIN, STRONG = "cifar100_all", "cifar100_strong"
PARTS = (
    ("resnet20", "epochs_80", PLAIN, DECISIVE),
    ("resnet20", "epochs_20", PLAIN, DECISIVE),
    ("yardstick", "epochs_200", "cifar100_yardstick", ("convolution",)),
    ("fast_net", "epochs_80", PLAIN, DECISIVE),
    ("fast_net", "epochs_20", PLAIN, DECISIVE),
    ("resnet20", "epochs_80", PLAIN, BASELINES),
    ("resnet20", "epochs_80", STRONG, DECISIVE),
    ("resnet20", "epochs_20", PLAIN, BASELINES),
    ("fast_net", "epochs_80", PLAIN, BASELINES),
    ("fast_net", "epochs_80", STRONG, DECISIVE),
    ("fast_net", "epochs_20", PLAIN, BASELINES),
)
"""Grid, budget, data and arms of every part."""
STOPPED = 130


def main() -> int:
    parser = argparse.ArgumentParser("everything.py", description="Run the whole study on one GPU, most decisive part first.")
    parser.add_argument("--minutes", type=float, help="stop after so long; the same command goes on")
    given, others = parser.parse_known_args()
    end = None if given.minutes is None else time.monotonic() + 60 * given.minutes
    worst = 0
    for grid, budget, data, arms in PARTS:
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
            "--only",
            *arms,
            *others,
        ]
        code = subprocess.run([*command, *([] if left is None else [f"--minutes={left}"])], check=False).returncode
        if code == STOPPED:
            return code
        worst = max(worst, code)
    return worst


if __name__ == "__main__":
    sys.exit(main())
