"""The program of one part of ``uniex gpu``: ``python -m unified_extractor.benchmarks.gpu.run_part PART FOLDER TOY``."""

import sys
from collections.abc import Callable
from pathlib import Path

from unified_extractor.benchmarks.gpu import compilation, counters, frames, gpu_tests, speed, values

WORKS: dict[str, Callable[[Path, bool], None]] = {
    "compile": compilation.run,
    "values": values.run,
    "speed-bfloat16": speed.run_bfloat16,
    "speed-float32": speed.run_float32,
    "rivals": speed.run_rivals,
    "frames": frames.run,
    "counters": counters.run,
    "tests": gpu_tests.run,
}
"""The function of each part; it is given the folder of results, and whether it is the toy."""


if __name__ == "__main__":
    name, place, is_toy = sys.argv[1:]
    WORKS[name](Path(place), is_toy == "1")
