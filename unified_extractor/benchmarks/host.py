"""The cost of a call on the host: the time of one so small that its arithmetic is nothing, beside torch's own depthwise convolution.

:func:`measured` runs this file as a program for the Triton backend, whose kernels are compiled for a GPU that need not be there, and then
not launched: all of Python remains, but the driver's own launch.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from unittest import mock

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from unified_extractor.ops import checks
from unified_extractor.ops.dispatch import BACKENDS
from unified_extractor.ops.functional import extract
from unified_extractor.profiling.latency import in_turns, percentiles
from unified_extractor.profiling.meters import ProcessMeter
from unified_extractor.results.markdown import as_markdown

CHANNELS, SIZE, KERNEL_SIZE = 16, 4, 3
BASELINE = "torch's depthwise convolution"
NOTHING = "autograd.Function that does nothing"
STUBBED = "triton, kernels not launched"
_CALLS = 100
"""Calls that one measurement takes the mean of."""


class _Nothing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor) -> Tensor:
        ctx.save_for_backward(x, kernel)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(saved) for saved in ctx.saved_tensors)


def measured(repeats: int) -> dict[str, Any]:
    """Return the microseconds of forward, and of forward plus backward, of every backend that runs the call on this machine."""
    times = _microseconds({name: name for name in _running()}, repeats)
    stubbed = _stubbed_triton(repeats)
    return {"calls": _CALLS, "repeats": repeats, "microseconds": times | ({STUBBED: stubbed} if stubbed else {})}


def _running() -> list[str]:
    """Return the names of the backends that run the call, without Triton: its interpreter is nothing to measure."""
    x, kernel = torch.empty(1, CHANNELS, SIZE, SIZE), torch.empty(1, 1, KERNEL_SIZE**2, SIZE, SIZE)
    call = checks.call(x, KERNEL_SIZE, None, kernel, None, None, 1, "same", 1)
    usable = [backend for backend in reversed(BACKENDS) if backend.name != "triton" and backend.unusable_because() is None]
    return [backend.name for backend in usable if backend.refuses_because(call) is None]


def markdown(result: Mapping[str, Any]) -> str:
    """Return the table of a result, with what its columns mean."""
    times = result["microseconds"]
    baseline = times[BASELINE]["forward_backward"]["median"]
    rows = [
        {
            "computation": name,
            "forward": _text(found["forward"]),
            "forward plus backward": _text(found["forward_backward"]),
            "divided by torch's": f"{found['forward_backward']['median'] / baseline:.2f}",
        }
        for name, found in times.items()
    ]
    machine = result["machine"]
    return (
        "# The cost of a call on the host\n\n"
        f"A call of {CHANNELS} channels and {SIZE}x{SIZE} pixels with a dynamic kernel of {KERNEL_SIZE}x{KERNEL_SIZE} taps, in "
        f"microseconds: the median of {result['repeats']} measurements in turns, each the mean of {result['calls']} calls, and the 20th "
        "and 80th percentile. A time is that which the process computed, so that other programs on the machine do not add to it. The "
        "baseline is torch's depthwise convolution of the same size. The last column is forward plus backward "
        "divided by the baseline's. "
        "The kernels of the Triton backend are compiled for sm_90 and the driver's launch is left out, which comes on top of each: one in "
        f"forward, two in backward.{_a_launch(times)}\n\n"
        f"{machine['device']}, {machine['threads']} threads, "
        + ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        + f"; {result['date']}.\n\n"
        + as_markdown(pd.DataFrame(rows))
        + "\n"
    )


def _a_launch(times: Mapping[str, Any]) -> str:
    """Return the sentence about what a launch of the Triton backend costs beyond torch's autograd, if it was measured."""
    if STUBBED not in times:
        return ""
    beyond = {
        which: times[STUBBED][which]["median"] - times[NOTHING][which]["median"] for which in ("forward", "forward_backward")
    }
    return (
        " Beyond the autograd.Function that does nothing, a launch costs "
        f"{beyond['forward']:.0f} microseconds in forward and {beyond['forward_backward'] / 3:.0f} in forward plus backward, on average."
    )


def _text(times: Mapping[str, float]) -> str:
    return f"{times['median']:,.0f} ({times['p20']:,.0f} to {times['p80']:,.0f})"


def _microseconds(backends: Mapping[str, str], repeats: int) -> dict[str, Any]:
    """Return the times of these backends, by label, and of the baselines; values are compared first."""
    x, gradient = torch.randn(1, CHANNELS, SIZE, SIZE, requires_grad=True), torch.randn(1, CHANNELS, SIZE, SIZE)
    kernel = torch.randn(1, 1, KERNEL_SIZE**2, SIZE, SIZE, requires_grad=True)
    static = torch.randn(CHANNELS, 1, KERNEL_SIZE, KERNEL_SIZE, requires_grad=True)

    def ours(backend: str) -> Callable[[], Tensor]:
        return lambda: extract(x, kernel_size=KERNEL_SIZE, padding="same", dynamic_kernel=kernel, backend=backend)

    forward: dict[str, tuple[Callable[[], Tensor], tuple[Tensor, Tensor]]] = {
        BASELINE: (lambda: F.conv2d(x, static, padding=KERNEL_SIZE // 2, groups=CHANNELS), (x, static)),
        NOTHING: (lambda: _Nothing.apply(x, kernel), (x, kernel)),
    } | {label: (ours(name), (x, kernel)) for label, name in backends.items()}
    for name in backends.values():
        if name != "triton":
            torch.testing.assert_close(ours(name)(), ours("reference")(), rtol=1e-4, atol=1e-5)

    def repeated(compute: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(_CALLS):
                compute()

        return run

    def step(compute: Callable[[], Tensor], leaves: tuple[Tensor, Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(compute(), leaves, gradient)

    computations = {(name, "forward"): repeated(compute) for name, (compute, _) in forward.items()}
    computations |= {(name, "forward_backward"): repeated(step(*given)) for name, given in forward.items()}
    found: dict[str, Any] = {name: {} for name in forward}
    for (name, which), milliseconds in in_turns(computations, repeats, ProcessMeter()).items():
        found[name][which] = percentiles([1000 * time / _CALLS for time in milliseconds])
    return found


def _stubbed_triton(repeats: int) -> dict[str, Any] | None:
    """Return the times of the Triton backend without its launches, measured in a process of its own; None without Triton."""
    command = [sys.executable, "-m", __name__, str(repeats)]
    environment = os.environ | {"TRITON_INTERPRET": "0", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] | None = json.loads(run.stdout.splitlines()[-1])
    return found


def _main(repeats: int) -> None:
    """Print the times of the Triton backend, whose kernels are compiled for a GPU and not launched, as JSON."""
    try:
        from triton.compiler import CompiledKernel
        from triton.runtime import driver
    except ImportError:
        print("null")
        return
    from unified_extractor.benchmarks.machine_code.offline import Chip
    from unified_extractor.ops.backends.triton import Triton
    from unified_extractor.ops.tracing import opaque_because

    def load(kernel: Any) -> None:
        kernel.module = kernel.function = 1
        kernel._run = lambda *_: None

    def asked(*_: object) -> str | None:  # a Mock would take microseconds of its own
        return opaque_because()

    driver.set_active(Chip(90))
    with (
        mock.patch.object(CompiledKernel, "_init_handles", load),
        mock.patch.object(torch.cuda, "is_initialized", partial(bool, 1)),
        mock.patch.object(Triton, "refuses_because", asked),
    ):
        print(json.dumps(_microseconds({STUBBED: "triton"}, repeats)[STUBBED]))


if __name__ == "__main__":
    _main(int(sys.argv[1]))
