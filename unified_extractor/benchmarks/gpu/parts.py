"""The parts of ``uniex gpu``, each a process of its own with a time limit and a result file that it writes as it goes.

A part whose file is complete, for the same device and the same sources, is not run again.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from unified_extractor.benchmarks.gpu.results import failed_before, is_complete

LEAST = 15
"""Seconds under which no further part is begun."""


class Part(NamedTuple):
    """A part: what it tells and how long it may take."""

    name: str
    seconds: int
    tells: str


PARTS = (
    Part(
        "compile",
        100,
        "nothing: compiles all kernels by as many processes as there are cores, so that the parts below need not wait",
    ),
    Part("values", 100, "values and gradients of every kernel at small and odd shapes in poisoned memory; rates of the machine"),
    Part("speed-bfloat16", 100, "the thirteen cases in bfloat16, replayed as CUDA graphs over rotated inputs"),
    Part("speed-float32", 70, "the same in float32"),
    Part(
        "rivals",
        80,
        "the cases beside compiled formulations, torchvision, natten and DCNv4 where they are installed, in bfloat16",
    ),
    Part(
        "frames",
        70,
        "training steps of ResNet-20, FastNet-S and, if there is time, ResNet-56 beside the sum of their kernels' times, as they are "
        "and as CUDA graphs",
    ),
    Part("counters", 40, "hardware counters of one step of six cases, by ncu where it runs"),
    Part("tests", 120, "the tests that only a GPU runs"),
)


class Outcome(NamedTuple):
    """The end of a part."""

    part: str
    text: str
    failed: bool


def run_all(parts: Sequence[Part], folder: Path, seconds: float, toy: bool) -> Iterator[Outcome]:
    """Run the parts in turn, as long as there is time, and yield how each ended."""
    end = time.monotonic() + seconds
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        left = end - time.monotonic()
        if part.name != "compile" and is_complete(folder / f"{part.name}.json", toy):
            yield Outcome(part.name, "complete before, skipped", failed_before(folder / f"{part.name}.json"))
        elif left < LEAST:
            yield Outcome(part.name, "no time left, not run", True)
        else:
            yield _run(part, folder, min(part.seconds, left), toy)


def _run(part: Part, folder: Path, seconds: float, toy: bool) -> Outcome:
    began = time.monotonic()
    command = [sys.executable, "-m", f"{__package__}.run_part", part.name, str(folder), str(int(toy))]
    environment = (
        os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTHONUNBUFFERED": "1"} | ({"TRITON_INTERPRET": "1"} if toy else {})
    )
    with (folder / "log.txt").open("a") as log:
        log.write(f"\n== {part.name}\n")
        log.flush()
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            _end(process)
            code = None
    took = f"{time.monotonic() - began:.0f} s"
    if code is None:
        return Outcome(part.name, f"stopped after {took}, what it had is kept", True)
    failures = part.name != "compile" and (
        not (folder / f"{part.name}.json").exists() or failed_before(folder / f"{part.name}.json")
    )
    if code or failures:
        return Outcome(part.name, f"failed after {took}, see log.txt and its file", True)
    return Outcome(part.name, f"complete after {took}", False)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and those that it started, which share its session."""
    os.killpg(process.pid, 9)
    process.wait()
