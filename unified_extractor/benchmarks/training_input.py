"""The time to load training batches beside the time to train on them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

import unified_extractor.models as models
import unified_extractor.presets as presets
from unified_extractor.data import Augmentation, Digits, ImageDataModule, Loading
from unified_extractor.data.data_module import Split
from unified_extractor.data.image_datasets import MemoryImages
from unified_extractor.profiling.latency import in_turns, percentiles, percentiles_text
from unified_extractor.profiling.meters import Meter
from unified_extractor.results.markdown import as_markdown

PATHS = {
    "on the device": Loading(),
    "a loader, no processes": Loading(on_device=False),
    "a loader, 2 processes": Loading(on_device=False, num_workers=2),
}
"""The compared settings of the loaders."""
_NOTES = """Milliseconds for one batch, medians (20th to 80th percentile), written by `uniex bench train`. *input*: loading the next batch,
augmented and normalized; *step*: forward, backward and AdamW on a loaded batch; *both*: one after the other, as in training.
*input / step* is the cost of loading if it does not overlap with computing. Lightning's loop, metrics and logs are not included.
"""


class RandomImages(ImageDataModule):
    """Random images with the number and the size of CIFAR-10's, for which loading takes as long."""

    name, in_chans, image_size, mean, std = "random_images", 3, 32, (0.5,) * 3, (0.25,) * 3

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
    """A network and the images that it is trained on."""

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
        network=_net([16, 32, 64], 3, presets.involution(3)), data=lambda loading: RandomImages(128, _CROPS, loading)
    ),
    "CIFAR size 32x32, unified": TrainCase(
        network=_net([16, 32, 64], 3, presets.unified()), data=lambda loading: RandomImages(128, _CROPS, loading)
    ),
}


def measured(name: str, case: TrainCase, repeats: int, meter: Meter, device: torch.device) -> dict[str, Any]:
    """Return the times of all loaders, which take turns."""
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
        "milliseconds": {what: percentiles(values) for what, values in times.items()},
    }


def markdown(result: Mapping[str, Any]) -> str:
    """Return the result file as a Markdown page."""
    machine = result["machine"]
    about = f"{machine['device']}, {machine.get('threads', '-')} threads, {result['date']}"
    text = f"# The time to load training batches\n\n{about}.\n\n{_NOTES}"
    for case in result["cases"]:
        rows, times = [], case["milliseconds"]
        for path in [what.removeprefix("input ") for what in times if what.startswith("input ")]:
            data, both = times[f"input {path}"], times[f"both {path}"]
            row = {
                "images": path,
                "input": percentiles_text(data),
                "step": percentiles_text(times["step"]),
                "both": percentiles_text(both),
            }
            share = f"{data['median'] / times['step']['median']:.1%}"
            rows.append({**row, "input / step": share, "images/s": f"{1000 * case['batch'] / both['median']:,.0f}"})
        text += f"\n## {case['name']}\n\n{case['parameters']:,} parameters, batches of {case['batch']}.\n\n"
        text += as_markdown(pd.DataFrame(rows))
    return text


def _batches(data: ImageDataModule, device: torch.device) -> Callable[[], tuple[Tensor, Tensor]]:
    """Return a function that returns the next batch on the device; epochs follow each other without end."""
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
