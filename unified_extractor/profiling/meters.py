"""How a device measures time and memory, and what it is."""

import ctypes
import gc
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.profiler import ProfilerActivity, profile

from unified_extractor.ops.dispatch import backends

_PACKAGES = ("torch", "torchvision", "triton", "numba", "llvmlite", "numpy", "unified-extractor")


class Meter(Protocol):
    """A device's clock, memory and description."""

    def milliseconds(self, compute: Callable[[], object]) -> float:
        """How long it takes."""

    def peak_bytes(self, compute: Callable[[], object]) -> int | None:
        """How much more memory is in use at the worst moment, than before; None where the system does not tell."""

    def kernels(self, compute: Callable[[], object]) -> dict[str, float] | None:
        """Milliseconds of every kernel of the device, the longest first; None where it has none."""

    def machine(self) -> dict[str, Any]:
        """Where and with what is measured, and two limits of the device: multiply-adds and bytes a second."""


class CpuMeter:
    """Wall clock, and growth of the process, whoever allocates."""

    def milliseconds(self, compute: Callable[[], object]) -> float:
        """See :class:`Meter`."""
        start = time.perf_counter()
        compute()
        return 1000 * (time.perf_counter() - start)

    def peak_bytes(self, compute: Callable[[], object]) -> int | None:
        """See :class:`Meter`; known on Linux."""
        try:
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)  # give back what earlier steps left, or it would not be counted
            Path("/proc/self/clear_refs").write_text("5")
            before = _status("VmRSS")
            compute()
            return _status("VmHWM") - before
        except (OSError, AttributeError):
            return None

    def kernels(self, compute: Callable[[], object]) -> None:
        """See :class:`Meter`."""

    def machine(self) -> dict[str, Any]:
        """See :class:`Meter`."""
        return {
            "device": _processor(),
            "threads": torch.get_num_threads(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            **_software(),
            "peak_multiply_adds_per_second": _matrix_rate(self, "cpu", torch.float32, 1536),
            "peak_bytes_per_second": _copy_rate(self, "cpu", 2**27),
        }


class GpuMeter:
    """Time between two events on the device, whose cache holds nothing of the tensors; growth of what PyTorch has allocated.

    Reading a buffer several times the size of the cache also keeps the device busy, for about a millisecond, while the CPU enqueues
    what is measured: the time is the device's own, as in a network whose CPU runs ahead. What takes the CPU longer to enqueue is
    charged for the rest.
    """

    _ELEMENTS, _TIMES, _PROFILED = 2**26, 16, 5

    def __init__(self) -> None:
        self._buffer = torch.zeros(self._ELEMENTS, device="cuda")

    def milliseconds(self, compute: Callable[[], object]) -> float:
        """See :class:`Meter`."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(self._TIMES):
            self._buffer.sum()  # written instead, it would be written back at the expense of what is measured
        start.record()
        compute()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end)

    def peak_bytes(self, compute: Callable[[], object]) -> int | None:
        """See :class:`Meter`."""
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        compute()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def kernels(self, compute: Callable[[], object]) -> dict[str, float] | None:
        """See :class:`Meter`; means of a few runs."""
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            for _ in range(self._PROFILED):
                compute()
            torch.cuda.synchronize()
        times = {event.key: event.device_time_total / 1000 / self._PROFILED for event in profiler.key_averages()}
        return {name: round(time, 4) for name, time in sorted(times.items(), key=lambda item: -item[1]) if time > 0}

    def machine(self) -> dict[str, Any]:
        """See :class:`Meter`; multiply-adds a second by dtype."""
        properties = torch.cuda.get_device_properties()
        dtypes = {"bfloat16": torch.bfloat16, "float32": torch.float32}
        return {
            "device": properties.name,
            "memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
            "float32_matmul_precision": "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee",
            **_software(),
            "peak_multiply_adds_per_second": {name: _matrix_rate(self, "cuda", dtype, 8192) for name, dtype in dtypes.items()},
            "peak_bytes_per_second": _copy_rate(self, "cuda", 2**30),
        }


def without_gpu() -> str | None:
    """None where the GPU benchmark can run, else the reason it cannot."""
    if not torch.cuda.is_available():
        return "there is no GPU that PyTorch can use here"
    return backends()["triton"]


def without_compiled() -> str | None:
    """None where the compiled backend can run, else the reason it cannot."""
    return backends()["compiled"]


def _matrix_rate(meter: Meter, device: str, dtype: torch.dtype, size: int) -> float:
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return round(size**3 / min(meter.milliseconds(lambda: a @ b) for _ in range(10)) * 1000)


def _copy_rate(meter: Meter, device: str, size: int) -> float:
    source, target = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    return round(2 * size / min(meter.milliseconds(lambda: target.copy_(source)) for _ in range(10)) * 1000)


def _software() -> dict[str, Any]:
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
