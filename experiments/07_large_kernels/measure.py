"""Times and multiply-adds of layers whose windows have 3x3 to 11x11 taps.

    python experiments/07_large_kernels/measure.py        (a few minutes; nothing else may run)

Writes results/<cpu or gpu>.json, and the table and the figure of that file. With --draw only these.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

import unified_extractor as ux
from unified_extractor.profiling.latency import in_turns, percentiles, percentiles_text
from unified_extractor.profiling.meters import CpuMeter, GpuMeter
from unified_extractor.results.markdown import as_markdown

SIZES = (3, 5, 7, 9, 11)
BATCH, CHANNELS, SIDE = 8, 64, 56
SPECS = {
    "convolution": ux.presets.convolution,
    "depthwise convolution": ux.presets.depthwise_convolution,
    "involution": ux.presets.involution,
    "local attention": lambda size: ux.presets.local_attention(size, heads=4),
}


def measure(repeats: int) -> dict[str, Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    meter = GpuMeter() if device.type == "cuda" else CpuMeter()
    x = torch.randn(BATCH, CHANNELS, SIDE, SIDE, device=device, requires_grad=True)
    layers = {
        (name, size): ux.UnifiedExtractor2d(CHANNELS, CHANNELS, spec(size)).to(device)
        for name, spec in SPECS.items()
        for size in SIZES
    }

    def step(layer: torch.nn.Module) -> None:
        layer.zero_grad()
        layer(x).sum().backward()

    times = in_turns({key: partial(step, layer) for key, layer in layers.items()}, repeats, meter)
    rows = []
    for (name, size), values in times.items():
        cost = ux.analysis.cost(layers[name, size], (CHANNELS, SIDE, SIDE))
        counted = {"parameters": cost.parameters, "multiply_adds": cost.multiply_adds}
        rows.append({"layer": name, "kernel_size": size, **counted, **percentiles(values)})
    return {"shape": [BATCH, CHANNELS, SIDE, SIDE], "repeats": repeats, "machine": meter.machine(), "rows": rows}


def table(result: dict[str, Any]) -> str:
    """Return the table of multiply-adds and milliseconds, each also as a multiple of the 3x3 layer's."""
    lines = []
    frame = pd.DataFrame(result["rows"])
    for name, own in frame.groupby("layer", sort=False):
        first = own.iloc[0]
        for _, row in own.iterrows():
            grown = [f"{row[what] / first[what]:.2f}" for what in ("multiply_adds", "median")]
            size = f"{row['kernel_size']}x{row['kernel_size']}"
            lines.append(
                [
                    name,
                    size,
                    f"{row['parameters']:,}",
                    f"{row['multiply_adds'] / 1e6:,.1f}",
                    grown[0],
                    percentiles_text(row),
                    grown[1],
                ]
            )
    columns = ["layer", "window", "parameters", "M multiply-adds", "times 3x3", "ms, forward and backward", "times 3x3 in time"]
    return as_markdown(pd.DataFrame(lines, columns=columns))


def figure(result: dict[str, Any]) -> Figure:
    drawn = Figure(figsize=(10, 4), layout="constrained")
    work, time = drawn.subplots(1, 2)
    frame = pd.DataFrame(result["rows"])
    for name, own in frame.groupby("layer", sort=False):
        work.plot(own["kernel_size"], own["multiply_adds"] / 1e6, "o-", label=name)
        time.errorbar(
            own["kernel_size"], own["median"], [own["median"] - own["p20"], own["p80"] - own["median"]], fmt="o-", capsize=3
        )
    for axis, label in ((work, "million multiply-adds an image"), (time, "ms a batch, forward and backward")):
        axis.set(xlabel="kernel size", ylabel=label, yscale="log", xticks=SIZES)
        axis.grid(alpha=0.3, which="both")
    work.legend(fontsize=8)
    batch, channels, side, _ = result["shape"]
    drawn.suptitle(
        f"One layer, {batch} maps of {channels} channels, {side}x{side}: medians, bars from the 20th to the 80th percentile",
        fontsize=10,
    )
    return drawn


def main() -> int:
    parser = argparse.ArgumentParser("measure.py")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--draw", type=Path, metavar="FILE.json", help="draw a measurement that was made")
    given = parser.parse_args()
    results = Path(__file__).parent / "results"
    path = given.draw or results / f"{'gpu' if torch.cuda.is_available() else 'cpu'}.json"
    if not given.draw:
        results.mkdir(exist_ok=True)
        path.write_text(json.dumps(measure(given.repeats), indent=1) + "\n")
    result = json.loads(path.read_text())
    path.with_suffix(".md").write_text(table(result))
    figure(result).savefig(path.with_suffix(".png"), dpi=130)
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
