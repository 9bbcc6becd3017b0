"""How fast images come to a network, beside how fast it learns from them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from unified_extractor import models, presets
from unified_extractor.data import Augmentation, Digits, ImageDataModule, Loading
from unified_extractor.data.data_module import Split
from unified_extractor.data.image_datasets import MemoryImages
from unified_extractor.profiling.latency import in_turns, in_words, spread
from unified_extractor.profiling.meters import Meter
from unified_extractor.results.tables import as_markdown

PATHS = {
    "on the device": Loading(),
    "a loader, no processes": Loading(on_device=False),
    "a loader, 2 processes": Loading(on_device=False, num_workers=2),
}
"""How the images of a case are brought."""
_NOTES = """Milliseconds a batch, medians (20th to 80th percentile), by `uniex bench train`. *input*: the next augmented, normalized
batch, alone; *step*: forward, backward and AdamW on a batch that is there already; *both*: one after the other, as in training.
*input / step* is what the data cost where they are not brought while the network computes. Lightning's loop, metrics and logs come on top.
"""


class MadeImages(ImageDataModule):
    """Random images of CIFAR-10's number and size: what brings them cannot tell."""

    name, in_chans, image_size, mean, std = "made_cifar", 3, 32, (0.5,) * 3, (0.25,) * 3

    @property
    @override
    def class_names(self) -> tuple[str, ...]:
        return tuple("0123456789")

    @override
    def read(self, split: Split) -> MemoryImages:
        count, generator = 45_000 if split == "train" else 5_000, torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
        return MemoryImages(images, torch.arange(count) % 10)


@dataclass(frozen=True, kw_only=True)
class TrainCase:
    """A network and the images it learns from."""

    network: Callable[[], nn.Module]
    data: Callable[[Loading], ImageDataModule]
    paths: Mapping[str, Loading] = field(default_factory=lambda: PATHS)


def _net(widths: list[int], in_chans: int, spec: Any) -> Callable[[], nn.Module]:
    return lambda: models.ExtractorNet(10, spec, in_chans=in_chans, widths=widths, depths=[1] * len(widths))


_CROPS = Augmentation(crop_padding=4, flip=True)
CASES = {
    "digits 8x8, involution, the smallest network": TrainCase(
        network=_net([16, 32], 1, presets.involution(3)), data=lambda loading: Digits(64, loading=loading)
    ),
    "CIFAR size 32x32, involution, the smallest network": TrainCase(
        network=_net([16, 32, 64], 3, presets.involution(3)), data=lambda loading: MadeImages(128, _CROPS, loading)
    ),
    "CIFAR size 32x32, unified": TrainCase(
        network=_net([16, 32, 64], 3, presets.unified()), data=lambda loading: MadeImages(128, _CROPS, loading)
    ),
}


def measured(name: str, case: TrainCase, repeats: int, meter: Meter, device: torch.device) -> dict[str, Any]:
    """Times of every path, taking turns."""
    torch.manual_seed(0)
    network = case.network().to(device).train()
    optimizer = torch.optim.AdamW(network.parameters())
    sources = {path: _batches(case.data(loading), device) for path, loading in case.paths.items()}
    batch = next(iter(sources.values()))()

    def step(images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()

    computations: dict[str, Callable[[], object]] = {"step": lambda: step(*batch)}
    for path, source in sources.items():
        computations |= {f"input {path}": source, f"both {path}": lambda source=source: step(*source())}  # type: ignore[misc]
    times = in_turns(computations, repeats, meter)
    return {
        "name": name,
        "batch": len(batch[0]),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "milliseconds": {what: spread(values) for what, values in times.items()},
    }


def markdown(result: Mapping[str, Any]) -> str:
    """The result file as a page."""
    machine = result["machine"]
    text = (
        f"# How fast training is fed\n\n{machine['device']}, {machine.get('threads', '-')} threads, {result['date']}.\n\n{_NOTES}"
    )
    for case in result["cases"]:
        rows, times = [], case["milliseconds"]
        for path in [what.removeprefix("input ") for what in times if what.startswith("input ")]:
            data, both = times[f"input {path}"], times[f"both {path}"]
            row = {"images are": path, "input": in_words(data), "step": in_words(times["step"]), "both": in_words(both)}
            share = f"{data['median'] / times['step']['median']:.1%}"
            rows.append({**row, "input / step": share, "images/s": f"{1000 * case['batch'] / both['median']:,.0f}"})
        text += f"\n## {case['name']}\n\n{case['parameters']:,} parameters, batches of {case['batch']}.\n\n"
        text += as_markdown(pd.DataFrame(rows))
    return text


def _batches(data: ImageDataModule, device: torch.device) -> Callable[[], tuple[Tensor, Tensor]]:
    """Gives the next batch of endless epochs, on the device."""
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        world_size=1, global_rank=0, current_epoch=0, strategy=SimpleNamespace(root_device=device)
    )
    data.setup("fit")
    loader = data.train_dataloader()

    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from loader

    batches = endless()

    def following() -> tuple[Tensor, Tensor]:
        images, labels = next(batches)
        return images.to(device), labels.to(device)

    return following
