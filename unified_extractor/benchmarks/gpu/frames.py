"""The training step of the published frames beside the sum of its kernels' times."""

from pathlib import Path
from typing import Any

import torch

from unified_extractor.benchmarks.gpu.results import Results

GROUPS = 10


def run(folder: Path, toy: bool) -> None:
    """Time the frames in turn, each written as soon as it is measured; the toy trains a tiny network on the CPU."""
    results = Results(folder / "frames.json", toy)
    try:
        from unified_extractor.benchmarks import training_step  # here: it needs what training needs
    except ImportError as error:
        results.write(skipped=f"training cannot be imported: {error}", complete=True)
        return
    device = torch.device("cpu" if toy else "cuda")
    chosen = {"toy": training_step.TOY} if toy else training_step.runnable(device)
    rows: list[dict[str, Any]] = results.before("frames") or []
    failures: list[str] = []
    done = {row["name"] for row in rows}
    for name, frame in chosen.items():
        if name in done:
            continue
        try:
            rows.append(training_step.measured(name, frame, 2 if toy else GROUPS, device))
        except RuntimeError as error:  # of the compiler or the device
            failures.append(f"{name}: {error}"[:500])
        results.write(frames=rows, failures=failures)
    results.write(complete=True)
