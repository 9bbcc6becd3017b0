"""Meters of time and memory on a CPU and on a GPU, and descriptions of the machine."""

import ctypes
import gc
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch.profiler import ProfilerActivity, profile

from unified_extractor.ops.dispatch import backends

_PACKAGES = ("torch", "torchvision", "triton", "numba", "llvmlite", "numpy", "unified-extractor")


class Meter(Protocol):
    """The clock, the memory and the description of a device."""

    rotated_bytes: int
    """Bytes of inputs among which repeated computations take turns, so that none finds its own in a cache; 0: one set serves."""

    def milliseconds(self, compute: Callable[[], object]) -> float:
        """Return the time of a computation."""

    def replays(self, compute: Callable[[], object]) -> bool | None:
        """Return whether a computation's time is that of a replayed graph, without the CPU's; None if the device has no graphs."""

    def peak_bytes(self, compute: Callable[[], object]) -> int | None:
        """Return the largest growth of memory during a computation; None if the system does not tell it."""

    def kernels(self, compute: Callable[[], object]) -> dict[str, float] | None:
        """Return the milliseconds of each kernel of the device, the longest first; None if the device has no kernels."""

    def machine(self) -> dict[str, Any]:
        """Return the machine, the versions, and two limits of the device: multiply-adds and bytes a second."""


class CpuMeter:
    """A meter of wall-clock time and of the growth of the process, whoever allocates."""

    rotated_bytes = 0

    def milliseconds(self, compute: Callable[[], object]) -> float:
        """Return the wall-clock time; see :class:`Meter`."""
        start = time.perf_counter()
        compute()
        return 1000 * (time.perf_counter() - start)

    def replays(self, compute: Callable[[], object]) -> None:
        """Return None; see :class:`Meter`."""

    def peak_bytes(self, compute: Callable[[], object]) -> int | None:
        """Return the growth of the process's memory, which only Linux tells; see :class:`Meter`."""
        try:
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)  # reused memory of earlier steps would not be counted as growth
            Path("/proc/self/clear_refs").write_text("5")
            before = _status("VmRSS")
            compute()
            return _status("VmHWM") - before
        except (OSError, AttributeError):
            return None

    def kernels(self, compute: Callable[[], object]) -> None:
        """Return None; see :class:`Meter`."""

    def machine(self) -> dict[str, Any]:
        """Return the machine; see :class:`Meter`."""
        return {
            "device": _processor(),
            "threads": torch.get_num_threads(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            **software(),
            "peak_multiply_adds_per_second": _matrix_rate(self, "cpu", torch.float32, 1536),
            "peak_bytes_per_second": _copy_rate(self, "cpu", 2**27),
        }


class ProcessMeter(CpuMeter):
    """A meter of the time that the process computes, all its threads together: other programs on the machine do not add to it."""

    def milliseconds(self, compute: Callable[[], object]) -> float:
        """Return the process's time; see :class:`Meter`."""
        start = time.process_time()
        compute()
        return 1000 * (time.process_time() - start)


class GpuMeter:
    """A meter of the time between two CUDA events, with a cold cache, and of the growth of what PyTorch has allocated.

    Before each measurement the device reads a buffer several times as large as its cache, for about a millisecond. Meanwhile the CPU
    enqueues the computation, so the measured time is the device's own, as in a network whose CPU runs ahead. If enqueueing takes
    longer than that, the rest is part of the measured time.
    """

    _ELEMENTS, _TIMES, _PROFILED = 2**26, 16, 5
    rotated_bytes = 0

    def __init__(self) -> None:
        self._buffer = torch.zeros(self._ELEMENTS, device="cuda")

    def milliseconds(self, compute: Callable[[], object]) -> float:
        """Return the device's own time; see :class:`Meter`."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(self._TIMES):
            self._buffer.sum()  # reading, not writing: dirty cache lines would be written back during the measurement
        start.record()
        compute()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end)

    def replays(self, compute: Callable[[], object]) -> bool | None:
        """Return False: the CPU enqueues every computation anew; see :class:`Meter`."""
        return False

    def peak_bytes(self, compute: Callable[[], object]) -> int | None:
        """Return the growth of allocated memory; see :class:`Meter`."""
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        compute()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def kernels(self, compute: Callable[[], object]) -> dict[str, float] | None:
        """Return the mean time of each kernel over a few runs; see :class:`Meter`."""
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            for _ in range(self._PROFILED):
                compute()
            torch.cuda.synchronize()
        times = {event.key: event.device_time_total / 1000 / self._PROFILED for event in profiler.key_averages()}
        return {name: round(time, 4) for name, time in sorted(times.items(), key=lambda item: -item[1]) if time > 0}

    def machine(self) -> dict[str, Any]:
        """Return the machine, with multiply-adds a second for each dtype; see :class:`Meter`."""
        properties = torch.cuda.get_device_properties()
        dtypes = {"bfloat16": torch.bfloat16, "float32": torch.float32}
        return {
            "device": properties.name,
            "memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
            "float32_matmul_precision": "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee",
            **software(),
            "peak_multiply_adds_per_second": {name: _matrix_rate(self, "cuda", dtype, 8192) for name, dtype in dtypes.items()},
            "peak_bytes_per_second": _copy_rate(self, "cuda", 2**30),
        }


class GraphMeter(GpuMeter):
    """A meter of replayed CUDA graphs: a CPU that falls behind the GPU does not count.

    A computation is captured when it is first measured, and must have run before. One that cannot be captured is measured as by
    :class:`GpuMeter`, and :meth:`replays` says so.
    """

    rotated_bytes = 2**28
    """Four times the cache of an H200."""
    _LEAST, _MOST = 3.0, 100
    """Milliseconds that a measurement takes at least, and replays that it takes at most."""

    def __init__(self) -> None:
        super().__init__()
        self._graphs: WeakKeyDictionary[Callable[[], object], tuple[torch.cuda.CUDAGraph, int] | None] = WeakKeyDictionary()

    def milliseconds(self, compute: Callable[[], object]) -> float:
        """Return the time of a replay, the mean of as many as take a few milliseconds; see :class:`Meter`."""
        if compute not in self._graphs:
            self._graphs[compute] = self._captured(compute)
        captured = self._graphs[compute]
        if captured is None:
            return super().milliseconds(compute)
        graph, times = captured
        return self._replayed(graph, times)

    def replays(self, compute: Callable[[], object]) -> bool | None:
        """Return whether the computation was captured; see :class:`Meter`."""
        return self._graphs.get(compute) is not None

    def _captured(self, compute: Callable[[], object]) -> tuple[torch.cuda.CUDAGraph, int] | None:
        """Return the graph of a computation and how often a measurement replays it; None if it cannot be captured."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            compute()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                compute()
        except RuntimeError:  # it waits for the device, or allocates otherwise than from PyTorch's memory
            torch.cuda.synchronize()
            return None
        once = self._replayed(graph, 1)
        return graph, min(max(round(self._LEAST / once), 1), self._MOST)

    def _replayed(self, graph: torch.cuda.CUDAGraph, times: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._buffer.sum()  # the CPU enqueues the first replays meanwhile
        start.record()
        for _ in range(times):
            graph.replay()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / times


def without_gpu() -> str | None:
    """Return None if the GPU benchmark can run here, else the reason that it cannot."""
    if not torch.cuda.is_available():
        return "there is no GPU that PyTorch can use here"
    return backends()["triton"]


def without_compiled() -> str | None:
    """Return None if the compiled backend can run here, else the reason that it cannot."""
    return backends()["compiled"]


def _matrix_rate(meter: Meter, device: str, dtype: torch.dtype, size: int) -> float:
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return round(size**3 / min(meter.milliseconds(lambda: a @ b) for _ in range(10)) * 1000)


def _copy_rate(meter: Meter, device: str, size: int) -> float:
    source, target = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    return round(2 * size / min(meter.milliseconds(lambda: target.copy_(source)) for _ in range(10)) * 1000)


def software() -> dict[str, Any]:
    """Return the versions of Python and of the packages on which times depend."""
    return {"python": platform.python_version(), "versions": {name: _version(name) for name in _PACKAGES}}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
