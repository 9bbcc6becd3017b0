"""The tests that only a GPU runs, and then the others of the Triton backend on it."""

import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unified_extractor.benchmarks.gpu.results import Results

ROOT = Path(__file__).parents[3]
_TAIL, _EVERY = 60, 5
"""Lines that are kept of pytest's output, and seconds between two states of the result file."""
ROUNDS: dict[str, tuple[str, ...]] = {
    "only on a GPU": ("-m", "gpu", "tests/ops", "tests/benchmarks/test_gpu_benchmark.py"),
    "of the Triton backend": ("-m", "not gpu", "tests/ops/test_triton.py", "tests/ops/test_triton_computed_kernels.py"),
}
"""Arguments of pytest by what they run."""


def run(folder: Path, toy: bool) -> None:
    """Run the tests of the checkout and keep what pytest says at the end."""
    results = Results(folder / "tests.json", toy)
    if not (ROOT / "tests").is_dir():
        results.write(skipped="the tests are in the repository, and this is an installed package", complete=True)
        return
    found: dict[str, dict[str, Any]] = {}
    for name, words in ROUNDS.items():
        if toy:
            words = (*words, "--collect-only")
        for found[name] in _progress(
            [sys.executable, "-m", "pytest", "-v", "-rfE", "--tb=short", "-p", "no:cacheprovider", *words]
        ):
            wrong = [
                f"{which}: pytest ended with {state['code']}"
                for which, state in found.items()
                if state["code"] not in (None, 0, 5)
            ]
            results.write(rounds=found, failures=wrong)
    results.write(complete=True)


def _progress(command: list[str]) -> Iterator[dict[str, Any]]:
    """Yield every few seconds what a run of tests has done, and at last how it ended."""
    counts: Counter[str] = Counter()
    last, tail = time.monotonic(), deque[str](maxlen=_TAIL)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            tail.append(line.rstrip())
            counts.update(word for word in ("PASSED", "FAILED", "SKIPPED", "ERROR") if f" {word} " in f"{line.rstrip()} ")
            if time.monotonic() - last > _EVERY:
                last = time.monotonic()
                yield {"code": None, "counts": dict(counts), "tail": list(tail)}
    yield {"code": process.returncode, "counts": dict(counts), "tail": list(tail)}
