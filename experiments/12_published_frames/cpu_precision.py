"""Measure what bfloat16 gains and loses on a CPU: a training step of every extractor in FastNet-S, in float32 and under autocast.

    python experiments/12_published_frames/cpu_precision.py      (a minute; nothing else may run)

Writes results/cpu_precision.json and results/cpu_precision.md. The errors are those of the first step's logits and gradient, divided by
the norm in float32.
"""

import json
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unified_extractor.models import FastNet
from unified_extractor.named_specs import as_spec
from unified_extractor.profiling.latency import in_turns, percentiles, percentiles_text
from unified_extractor.profiling.meters import CpuMeter
from unified_extractor.results.markdown import as_markdown
from unified_extractor.sweeps.grid import read_grid

HERE = Path(__file__).parent
FILE = HERE / "results" / "cpu_precision.json"
BATCH, REPEATS = 32, 9
WIDTHS = "model.network.init_args.widths"
PRECISIONS = {"float32": False, "bfloat16": True}


def step(network: nn.Module, images: Tensor, labels: Tensor, autocast: bool) -> Tensor:
    """Run forward and backward, and return the logits."""
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits: Tensor = network(images)
    F.cross_entropy(logits.float(), labels).backward()
    return logits.detach().float()


def gradient(network: nn.Module) -> Tensor:
    """Return all gradients in one vector."""
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None])


def error(found: Tensor, exact: Tensor) -> float:
    """Return the norm of a difference, divided by that of the exact values."""
    return float((found - exact).norm() / exact.norm())


def measured() -> dict[str, Any]:
    """Return the milliseconds of both precisions and the errors of bfloat16, of every extractor."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(100, (BATCH,))
    steps, extractors = {}, {}
    for name, options in read_grid(HERE / "fast_net.yaml").variants.items():
        torch.manual_seed(0)
        own = {"widths": options[WIDTHS]} if WIDTHS in options else {}
        network = FastNet(100, as_spec(options["model.network.init_args.spec"]), **own).to(memory_format=torch.channels_last)
        logits, gradients = zip(
            *((step(network, images, labels, autocast), gradient(network)) for autocast in PRECISIONS.values()), strict=True
        )
        extractors[name] = {"logits_error": error(*reversed(logits)), "gradient_error": error(*reversed(gradients))}
        steps |= {(name, precision): partial(step, network, images, labels, cast) for precision, cast in PRECISIONS.items()}
    meter = CpuMeter()
    for (name, precision), times in in_turns(steps, REPEATS, meter).items():
        extractors[name][precision] = percentiles(times)
    return {
        "date": f"{datetime.now(UTC):%F}",
        "machine": meter.machine(),
        "batch": BATCH,
        "repeats": REPEATS,
        "extractors": extractors,
    }


def markdown(result: dict[str, Any]) -> str:
    """Return the table of a result."""
    rows = [
        {
            "extractor": name,
            **{f"{precision} ms": percentiles_text(found[precision]) for precision in PRECISIONS},
            "error of logits": f"{found['logits_error']:.3f}",
            "error of the gradient": f"{found['gradient_error']:.2f}",
        }
        for name, found in result["extractors"].items()
    ]
    return as_markdown(pd.DataFrame(rows)) + "\n"


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    result = measured()
    FILE.write_text(json.dumps(result, indent=1) + "\n")
    FILE.with_suffix(".md").write_text(markdown(result))
    print(markdown(result))
