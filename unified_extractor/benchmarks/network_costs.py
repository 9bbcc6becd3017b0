"""The costs of the networks at their usual image size beside the figures of papers and released codes: counted, not computed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch

import unified_extractor.models as models
import unified_extractor.presets as presets
from unified_extractor.ops.dispatch import KernelMemory
from unified_extractor.profiling.cost import cost, saved_activation_bytes
from unified_extractor.profiling.extractors import extractors
from unified_extractor.results.markdown import as_markdown

_NOTES = """Parameters and multiply-adds for one image of 224 x 224 pixels and 1000 classes (CIFAR's networks: 32 x 32 and 10), written by
`uniex bench models`.

* *multiply-adds*: counted by `ux.analysis.cost`: matrix products, convolutions, and the operator by its formula.
* *elementwise*: operations that RedNet's paper counts too: 2 a value for a norm, 1 for an activation, 1 for a bias.
* *reference*: multiply-adds that the paper has *published* or that were *counted* from the released code. A source *+ elementwise* is
  compared with the sum of both columns.
* *saved MB*: bytes that autograd saves for backward, for one image, on the CPU in float32. The dynamic kernels are stored / recomputed
  where that is faster / recomputed wherever possible.
"""


_SAVED: dict[str, KernelMemory] = {"saved_bytes_store": "store", "saved_bytes_auto": "auto", "saved_bytes_recompute": "recompute"}
"""Settings of the layers' kernel memory under which the bytes saved for backward are counted, by the row's field."""


@dataclass(frozen=True)
class Figures:
    """The figures of a network in papers and released codes."""

    make: Callable[[], models.StagedNetwork]
    parameters: int | None = None
    """Number of parameters, counted from the released code."""
    multiply_adds: float | None = None
    """Multiply-adds in billions."""
    source: str = ""
    """Source of the multiply-adds: published or counted, and by which convention."""

    @property
    def with_elementwise(self) -> bool:
        """True if the multiply-adds include elementwise operations."""
        return "elementwise" in self.source


def _rednets() -> Iterator[tuple[str, Figures]]:
    """Yield the RedNets. The released code has a stem of 3x3 taps, the paper's table belongs to one of 7x7."""
    for depth, parameters, counted, published in (
        (26, 9_233_166, 1.71, 1.73),
        (38, 12_386_986, 2.20, 2.22),
        (50, 15_540_806, 2.69, 2.71),
        (101, 25_652_950, 4.72, 4.74),
        (152, 33_984_582, 6.76, 6.79),
    ):
        make: Any = getattr(models, f"rednet{depth}")
        yield f"rednet{depth}", Figures(make, parameters, counted, "counted + elementwise")
        of_paper = 9_233_886 if depth == 26 else None
        make = partial(make, stem_kernel_size=7)
        yield f"rednet{depth} (stem_kernel_size=7)", Figures(make, of_paper, published, "published + elementwise")


def _deformable_resnet(version: int) -> Callable[[], models.StagedNetwork]:
    return partial(models.resnet50, spec=[presets.convolution(), *[presets.deformable_convolution(version)] * 3])


FIGURES: dict[str, Figures] = {
    "resnet20": Figures(models.resnet20, None, 0.0406, "counted from the paper's table"),
    "resnet32": Figures(models.resnet32, None, 0.0689, "counted from the paper's table"),
    "resnet56": Figures(models.resnet56, None, 0.1255, "counted from the paper's table"),
    "fast_net_s": Figures(models.fast_net_s),
    "fast_net_b": Figures(models.fast_net_b),
    **dict(_rednets()),
    "resnet50": Figures(models.resnet50, 25_557_032, 4.09, "counted"),
    "resnet50 (deformable v1 in stages 2-4)": Figures(_deformable_resnet(1), 26_137_874),
    "resnet50 (deformable v2 in stages 2-4)": Figures(_deformable_resnet(2), 26_428_295),
    "volo_d1": Figures(models.volo_d1, 26_632_040, 6.92, "counted"),
    "volo_d2": Figures(models.volo_d2, 58_678_336),
    "volo_d3": Figures(models.volo_d3, 86_325_072),
    "volo_d4": Figures(models.volo_d4, 192_961_520),
    "volo_d5": Figures(models.volo_d5, 295_455_584),
    "internimage_t": Figures(models.internimage_t, 29_918_424, 4.89, "counted, of which 0.10 sampling"),
    "internimage_s": Figures(models.internimage_s, 50_079_880),
    "internimage_b": Figures(models.internimage_b, 97_461_832),
    "flash_internimage_t": Figures(models.flash_internimage_t, 29_815_528),
    "flash_internimage_s": Figures(models.flash_internimage_s, 50_067_496),
    "flash_internimage_b": Figures(models.flash_internimage_b, 97_448_960),
}


def counted(name: str) -> dict[str, Any]:
    """Return the row of a network: our counts and the published figures."""
    figures = FIGURES[name]
    with torch.device("meta"):
        network = figures.make()
    shape = (network.in_chans, network.usual_image_size, network.usual_image_size)
    ours = cost(network, shape)
    row = {"network": name, "parameters": ours.parameters, "multiply_adds": ours.multiply_adds, "elementwise": ours.elementwise}
    for key, kernel_memory in _SAVED.items():
        for layer in extractors(network).values():
            layer.kernel_memory = kernel_memory
        row[key] = saved_activation_bytes(network, shape)
    return row | {f"figure_{key}": getattr(figures, key) for key in ("parameters", "multiply_adds", "source")}


def compared(row: dict[str, Any]) -> float | None:
    """Return our multiply-adds by the figure's convention, in billions; None if there is no figure."""
    if row["figure_multiply_adds"] is None:
        return None
    added = row["elementwise"] if FIGURES[row["network"]].with_elementwise else 0
    return (row["multiply_adds"] + added) / 1e9


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown page."""
    table = []
    for row in rows:
        ours, figure = compared(row), row["figure_multiply_adds"]
        expected = row["figure_parameters"]
        table.append(
            {
                "network": row["network"],
                "parameters": f"{row['parameters']:,}",
                "released code's": "" if expected is None else "equal" if expected == row["parameters"] else f"{expected:,}",
                "multiply-adds, G": f"{row['multiply_adds'] / 1e9:.3f}",
                "elementwise, G": f"{row['elementwise'] / 1e9:.3f}",
                "reference, G": "" if figure is None else f"{figure:#.3g}",
                "difference": "" if ours is None else f"{ours / figure - 1:+.2%}",
                "source of the reference": row["figure_source"],
                "saved MB": " / ".join(f"{row[key] / 1e6:.1f}" for key in _SAVED),
            }
        )
    return f"# What the networks cost\n\n{_NOTES}\n{as_markdown(pd.DataFrame(table))}\n"
