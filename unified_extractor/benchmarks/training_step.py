"""The time of a training step of the published frames beside the sum of its kernels' times, and where the rest goes.

A step is one of Lightning's loop, with the callbacks that a run has: the next batch, forward, backward and the optimizer.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import lightning as L
import pandas as pd
import torch
from lightning.pytorch.profilers import SimpleProfiler
from torch import nn
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

import unified_extractor.models as models
from unified_extractor.benchmarks.training_input import RandomImages
from unified_extractor.data import Augmentation
from unified_extractor.profiling.cost import multiply_adds
from unified_extractor.profiling.latency import percentiles, percentiles_text
from unified_extractor.results.markdown import as_markdown
from unified_extractor.training.callbacks.divergence import StopWhenDiverged
from unified_extractor.training.callbacks.epoch_lines import EpochLines
from unified_extractor.training.callbacks.history import RunHistory
from unified_extractor.training.callbacks.random_state import ReseedEachStep
from unified_extractor.training.classifier import ImageClassifier
from unified_extractor.training.network_module import Compilation
from unified_extractor.training.optimization import Optimization

_WARM, _PROFILED, _LONGEST = 5, 3, 6
"""Steps before the first that counts, steps that are profiled, and kernels that a result names."""
_WAITS = ("Synchronize", "cudaMemcpy")
_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaMemsetAsync")
_PARTS = {
    "batch": ("[_TrainingEpochLoop].train_dataloader_next",),
    "forward": ("[Strategy]SingleDeviceStrategy.training_step",),
    "backward": ("[Strategy]SingleDeviceStrategy.backward",),
    "optimizer": ("[LightningModule]ImageClassifier.optimizer_step",),
}
"""Names of Lightning's profiler for the parts of a step; the optimizer's contains the two before it."""
_NOTES = """Milliseconds a step, written by `uniex bench train`: Lightning's loop with the callbacks of a run. *step*: median (20th to
80th percentile) of groups of steps without a profiler. *kernels*: sum of the times of a step's kernels on a GPU, of its operators' own
times on a CPU, by `torch.profiler`. *step / kernels*: 1 is a step that does nothing but compute; on a CPU the step is one under the
profiler, which delays operators and the rest alike. *arithmetic*: three times the multiply-adds of a forward pass, at the rate of a large
matrix product. *launches* and *waits* of a step are those of the host, with the time of the waits. The lower table says what the host
does during a step; *loop* is the rest of it.
"""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A published frame and how it is trained.

    Attributes:
        network: function that makes the network.
        batch: images of a step on a GPU; on a CPU there are ``CPU_BATCH``.
        compile: see :class:`ImageClassifier`; a CPU runs what is not compiled alone.
    """

    network: Callable[[], nn.Module]
    batch: int
    compile: Compilation = False


CPU_BATCH = 16
_CROPS = Augmentation(crop_padding=4, flip=True)
_GRAPHS: Compilation = "reduce-overhead"
FRAMES = {
    "ResNet-20": Frame(network=models.resnet20, batch=128),
    "ResNet-20 as CUDA graphs": Frame(network=models.resnet20, batch=128, compile=_GRAPHS),
    "FastNet-S": Frame(network=models.fast_net_s, batch=1024),
    "FastNet-S as CUDA graphs": Frame(network=models.fast_net_s, batch=1024, compile=_GRAPHS),
    "ResNet-56": Frame(network=models.resnet56, batch=128),
    "ResNet-56 as CUDA graphs": Frame(network=models.resnet56, batch=128, compile=_GRAPHS),
}

TOY = Frame(network=lambda: models.CIFARResNet(10, depths=(1, 1, 1), widths=(4, 4, 4)), batch=CPU_BATCH)
"""A frame for a test of this measurement."""


def runnable(device: torch.device) -> dict[str, Frame]:
    """Return the frames that a device can run: a CPU has no CUDA graphs."""
    return {name: frame for name, frame in FRAMES.items() if device.type == "cuda" or not frame.compile}


class _Profile(NamedTuple):
    """A step as a profile of several shows it: milliseconds, counts, and the milliseconds of the longest kernels."""

    step: float
    kernels: float
    longest: dict[str, float]
    launches: float
    waits: float
    waiting: float


class _Stopwatch(L.Callback):
    """A callback that times groups of steps after the first few, waiting for the device between groups, and then profiles some more."""

    def __init__(self, groups: int, steps: int, host: SimpleProfiler) -> None:
        self.groups, self.steps, self.host = groups, steps, host
        self.times: list[float] = []
        self.parts: dict[str, float] = {}
        self.profile: _Profile | None = None
        self._began = 0.0
        self._before: dict[str, int] = {}
        self._profiler: Any = None

    @property
    def total(self) -> int:
        return _WARM + self.groups * self.steps + _PROFILED

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        device, done = trainer.strategy.root_device, trainer.global_step - _WARM
        timed = self.groups * self.steps
        if 0 <= done <= timed and done % self.steps == 0:
            now = _settled(device)
            if done:
                self.times.append(1000 * (now - self._began) / self.steps)
            else:
                self._before = {name: len(seconds) for name, seconds in self.host.recorded_durations.items()}
            if done == timed:
                self.parts = self._host_parts(timed)
                activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
                self._profiler = profile(activities=activities)
                self._profiler.__enter__()
                now = _settled(device)
            self._began = time.perf_counter() if done == timed else now
        elif trainer.global_step == self.total:
            wall = 1000 * (_settled(device) - self._began) / _PROFILED
            self._profiler.__exit__(None, None, None)
            self.profile = _read(self._profiler.events(), wall, device)
            self._profiler = None

    def _host_parts(self, steps: int) -> dict[str, float]:
        """Return the host's milliseconds in each part of a step."""
        found = {
            name: 1000 * sum(seconds[self._before.get(name, 0) :]) / steps
            for name, seconds in self.host.recorded_durations.items()
        }
        parts = {part: sum(found.get(name, 0.0) for name in names) for part, names in _PARTS.items()}
        inside = sum(time for name, time in found.items() if name.startswith("[Callback]") and "before" in name)
        parts["optimizer"] -= parts["forward"] + parts["backward"] + inside
        parts["callbacks"] = sum(time for name, time in found.items() if name.startswith("[Callback]"))
        parts["callbacks"] -= sum(time for name, time in found.items() if "_Stopwatch" in name)
        return parts


def _settled(device: torch.device) -> float:
    """Return the time, once the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _read(events: Sequence[FunctionEvent], wall: float, device: torch.device) -> _Profile:
    """Return what the events of the profiled steps say of one."""
    times: dict[str, float] = {}
    host = [event for event in events if event.device_type == DeviceType.CPU]
    for event in events if device.type == "cuda" else host:
        if device.type == "cuda" and event.device_type == DeviceType.CUDA and not event.is_user_annotation:
            times[event.name] = times.get(event.name, 0.0) + event.time_range.elapsed_us()
        elif device.type != "cuda" and "::" in event.name and not event.name.startswith("autograd::"):
            times[event.name] = times.get(event.name, 0.0) + event.self_cpu_time_total
    waits = [event for event in host if event.name.startswith("cuda") and _waits(event.name)]
    in_order = sorted(times.items(), key=lambda item: -item[1])
    return _Profile(
        step=wall,
        kernels=sum(times.values()) / 1000 / _PROFILED,
        longest={name: round(time / 1000 / _PROFILED, 4) for name, time in in_order[:_LONGEST]},
        launches=sum(event.name.startswith(_LAUNCHES) for event in host) / _PROFILED,
        waits=len(waits) / _PROFILED,
        waiting=sum(event.time_range.elapsed_us() for event in waits) / 1000 / _PROFILED,
    )


def _waits(name: str) -> bool:
    return any(word in name for word in _WAITS) and name != "cudaMemcpyAsync"


def measured(name: str, frame: Frame, groups: int, device: torch.device, *, steps: int | None = None) -> dict[str, Any]:
    """Return the times of a training step of a frame.

    Args:
        name: name of the frame.
        frame: network and settings.
        groups: number of groups of steps that are timed.
        device: device that trains.
        steps: steps of a group, by default 10 on a GPU and 1 on a CPU.
    """
    torch.manual_seed(0)
    network, on_gpu = frame.network(), device.type == "cuda"
    batch = frame.batch if on_gpu else CPU_BATCH
    optimization = Optimization(optimizer="sgd", learning_rate=0.01, warmup_epochs=0)
    module = ImageClassifier(network, optimization, channels_last=True, compile=frame.compile)
    host = SimpleProfiler()
    watch = _Stopwatch(groups, steps or (10 if on_gpu else 1), host)
    trainer = L.Trainer(
        accelerator=device.type,
        devices=1,
        precision="bf16-mixed" if on_gpu else "32-true",
        max_steps=watch.total,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        profiler=host,
        callbacks=[ReseedEachStep(0), StopWhenDiverged(), RunHistory(), EpochLines(), watch],
    )
    host.describe = lambda: None  # type: ignore[method-assign]  # it would print all of its table
    trainer.fit(module, RandomImages(batch, _CROPS))
    assert watch.profile is not None
    step = percentiles(watch.times)
    parts = watch.parts | {"loop": step["median"] - sum(watch.parts.values())}
    return {
        "name": name,
        "batch": batch,
        "precision": str(trainer.precision),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "multiply_adds": 3 * batch * multiply_adds(network, (3, 32, 32)),
        "step_ms": step,
        "profile": watch.profile._asdict(),
        "step_to_kernels": (step["median"] if on_gpu else watch.profile.step) / watch.profile.kernels,
        "host_ms": {part: round(time, 4) for part, time in parts.items()},
    }


def markdown(frames: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]) -> str:
    """Return the part of the page about training steps, nothing if there is none."""
    if not frames:
        return ""
    rows, hosts = [], []
    for frame in frames:
        rate = machine["peak_multiply_adds_per_second"]
        rate = rate["bfloat16"] if isinstance(rate, Mapping) else rate
        seen = frame["profile"]
        label = {"frame": frame["name"], "images": f"{frame['batch']}, {frame['precision']}"}
        rows.append(
            {
                **label,
                "step": percentiles_text(frame["step_ms"]),
                "kernels": f"{seen['kernels']:.3g}",
                "step / kernels": f"{frame['step_to_kernels']:.2f}",
                "arithmetic": f"{1000 * frame['multiply_adds'] / rate:.3g}",
                "launches": f"{seen['launches']:.0f}",
                "waits": f"{seen['waits']:.1f} ({seen['waiting']:.2g} ms)",
            }
        )
        hosts.append({"frame": frame["name"], **{part: f"{time:.3g}" for part, time in frame["host_ms"].items()}})
    text = f"\n# A training step beside its kernels\n\n{_NOTES}\n{as_markdown(pd.DataFrame(rows))}\n{as_markdown(pd.DataFrame(hosts))}"
    for frame in frames:
        longest = "; ".join(f"{name[:60]} {time:.3g}" for name, time in frame["profile"]["longest"].items())
        text += f"\nThe longest of {frame['name']}: {longest}.\n"
    return text
