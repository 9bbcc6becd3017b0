"""The values of every kernel at small and odd shapes, in memory filled with NaN, and the rates of the machine.

An error is the largest difference from the reference in float64 divided by the largest magnitude. The operator may err twice as much as
the eager backend does in the same dtype, or by a rounding in half precision and four in float32, whose sums have another order.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from math import prod
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import unified_extractor as ux
from unified_extractor.benchmarks.gpu.results import Results
from unified_extractor.ops.functional import extract

CALLS: dict[str, dict[str, Any]] = {
    "involution 7x7": {"channels": 64, "kernels": 4, "kernel_size": 7, "size": (9, 11)},
    "involution of one image row": {"channels": 48, "kernels": 3, "kernel_size": 7, "size": (1, 23)},
    "involution, stride 2, dilation 2": {
        "channels": 32,
        "kernels": 2,
        "kernel_size": 3,
        "stride": 2,
        "dilation": 2,
        "size": (13, 10),
    },
    "involution, even kernel, 12 channels a group": {"channels": 24, "kernels": 2, "kernel_size": (4, 2), "size": (6, 7)},
    "involution with a depthwise kernel": {"channels": 32, "kernels": 2, "kernel_size": 5, "static": 1, "size": (8, 9)},
    "residual": {"channels": 32, "kernels": 2, "kernel_size": 3, "static": 1, "combine": "residual", "size": (8, 9)},
    "DCNv3": {"channels": 64, "kernels": 4, "offset_groups": 4, "kernel_size": 3, "size": (9, 11)},
    "DCNv3, stride 2": {"channels": 32, "kernels": 2, "offset_groups": 2, "kernel_size": 3, "stride": 2, "size": (10, 13)},
    "DCNv2": {"channels": 32, "kernels": 1, "offset_groups": 1, "kernel_size": 3, "static": 32, "size": (9, 7)},
    "dense with a dynamic kernel": {"channels": 32, "kernels": 2, "kernel_size": 3, "static": 16, "size": (9, 7)},
    "outlook": {"channels": 96, "kernels": 3, "kernel_size": 3, "stride": 2, "aggregation": "fold", "size": (9, 11)},
    "fold with a depthwise kernel": {
        "channels": 32,
        "kernels": 2,
        "kernel_size": 3,
        "static": 1,
        "aggregation": "fold",
        "size": (7, 6),
    },
    "generated": {"channels": 64, "kernels": 4, "kernel_size": 7, "feature": 16, "size": (9, 11)},
    "generated, softmax, offsets": {
        "channels": 64,
        "kernels": 4,
        "kernel_size": 3,
        "feature": 32,
        "normalization": "softmax",
        "offset_groups": 4,
        "size": (9, 11),
    },
    "attention": {"channels": 64, "kernels": 4, "kernel_size": 7, "attention": True, "size": (9, 11)},
}
"""The calls, a kernel or a rule in each; padding is "same"."""
TOY = {"residual": 1, "outlook": 1}
"""Calls that Triton's interpreter computes in a moment, with the number of kernels to which they are cut; maps are of 4x5 pixels."""


def run(folder: Path, toy: bool) -> None:
    """Compare all values, then measure the machine's rates."""
    results = Results(folder / "values.json", toy)
    rows: list[dict[str, Any]] = []
    for row in compared("cpu" if toy else "cuda", toy):
        rows.append(row)
        failures = [f"{row['call']} {row['dtype']}: {row['failed']}" for row in rows if row["failed"]]
        results.write(values=rows, failures=failures)
    if not toy:
        from unified_extractor.benchmarks.gpu.rates import additions
        from unified_extractor.profiling.meters import GpuMeter

        results.write(machine=GpuMeter().machine() | {"additions_per_second": additions()})
    results.write(complete=True)


def compared(device: str, toy: bool) -> Iterator[dict[str, Any]]:
    """Yield the errors of each call, in each dtype and layout, by atomics and in a fixed order where the image has offsets."""
    dtypes = (torch.float32,) if toy else (torch.bfloat16, torch.float32, torch.float16)
    for dtype, (name, options) in product(dtypes, CALLS.items()):
        if toy and name not in TOY:
            continue
        if toy:
            options = options | {
                "channels": options["channels"] // options["kernels"] * TOY[name],
                "kernels": TOY[name],
                "batch": 1,
                "size": (4, 5),
            }
        for channels_last in (True,) if toy else (True, False):
            call = made(options, dtype, device, channels_last)
            for ordered in (False, True) if options.get("offset_groups") else (False,):
                labels = {
                    "call": name,
                    "dtype": str(dtype).removeprefix("torch."),
                    "channels_last": channels_last,
                    "ordered": ordered,
                }
                yield labels | _errors(call, dtype, ordered)


def made(options: Mapping[str, Any], dtype: torch.dtype, device: str, channels_last: bool) -> dict[str, Any]:
    """Return the arguments of :func:`unified_extractor.extract`, with random leaves."""
    generator = torch.Generator().manual_seed(0)
    height, width = options["size"]
    stride, batch, channels, kernels = options.get("stride", 1), options.get("batch", 2), options["channels"], options["kernels"]
    kernel_size = options["kernel_size"]
    taps = prod(kernel_size) if isinstance(kernel_size, tuple) else kernel_size**2
    fold, output = options.get("aggregation") == "fold", (-(-height // stride), -(-width // stride))

    def new(*shape: int, image: bool = False) -> Tensor:
        values = torch.randn(shape, generator=generator)
        if image and channels_last:  # the axes before the last two are next to each other
            values = values.permute(0, -2, -1, *range(1, len(shape) - 2)).contiguous().permute(0, *range(3, len(shape)), 1, 2)
        return values.to(device=device, dtype=dtype).requires_grad_()

    image = new(batch, channels, height, width, image=True)
    call: dict[str, Any] = {"x": image, "kernel_size": kernel_size, "stride": stride, "padding": "same"}
    call |= {name: options[name] for name in ("dilation", "aggregation", "combine") if name in options}
    if static := options.get("static"):
        shape = (channels, 1) if static == 1 else (static, channels)
        call["static_kernel"] = new(*shape, *((kernel_size,) * 2 if isinstance(kernel_size, int) else kernel_size))
    if groups := options.get("offset_groups"):
        call["offsets"] = new(batch, groups, taps, 2, *output, image=True)
    if depth := options.get("feature"):
        feature = new(batch, depth, *output, image=True)
        weight, bias = new(kernels * taps, depth), new(kernels * taps)
        call["dynamic_kernel"] = ux.LinearKernel(feature, weight, bias, 0.2, options.get("normalization", "none"))
    elif options.get("attention"):
        call["dynamic_kernel"] = ux.AttentionKernel(
            new(batch, channels, *output, image=True), new(*image.shape, image=True), kernels
        )
    else:
        call["dynamic_kernel"] = new(batch, kernels, *((taps, taps) if fold else (taps,)), *output, image=True)
    return call


def _errors(call: dict[str, Any], dtype: torch.dtype, ordered: bool) -> dict[str, Any]:
    """Return the largest error of each value of ours and of plain torch, and which of ours is too large."""
    exact = _values(_converted(call, torch.float64), "reference")
    plain = _values(_converted(call, dtype), "eager")
    try:
        with poisoned(ordered):
            ours = _values(_converted(call, dtype), "triton")
    except (RuntimeError, ValueError) as error:
        return {"failed": f"{type(error).__name__}: {error}"[:300], "errors": {}}
    errors = {name: (_error(ours[name], exact[name]), _error(plain[name], exact[name])) for name in exact}
    rounding = torch.finfo(dtype).eps * (4 if dtype == torch.float32 else 1)
    wrong = [name for name, (error, allowed) in errors.items() if not error <= max(2 * allowed, rounding)]
    return {"failed": f"too wrong: {', '.join(wrong)}" if wrong else "", "errors": errors}


def _converted(call: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Return a call with leaves of its own in a dtype, laid out as they were."""

    def converted(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.detach().to(dtype, copy=True).requires_grad_()
        return type(value)(*map(converted, value)) if isinstance(value, ux.LinearKernel | ux.AttentionKernel) else value

    return {name: converted(value) for name, value in call.items()}


def _values(call: dict[str, Any], backend: str) -> dict[str, Tensor]:
    """Return the output and the gradients of every leaf."""
    leaves = {}
    for name, value in call.items():
        if isinstance(value, Tensor):
            leaves[name] = value
        elif isinstance(value, tuple):
            leaves |= {f"{name} {place}": part for place, part in enumerate(value) if isinstance(part, Tensor)}
    y = extract(**call, backend=backend)
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    found = torch.autograd.grad(y, list(leaves.values()), gradient)
    return {"output": y.detach()} | dict(zip(leaves, found, strict=True))


def _error(value: Tensor, exact: Tensor) -> float:
    return float(((value.double() - exact).abs().max() / exact.abs().max().clamp(min=1e-30)).item())


@contextmanager
def poisoned(ordered: bool) -> Iterator[None]:
    """Fill fresh memory with NaN inside the context; ``ordered``: with deterministic algorithms, too."""
    deterministic: Any = torch.utils.deterministic
    filled = deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    deterministic.fill_uninitialized_memory = True
    try:
        if ordered:
            yield
        else:
            with mock.patch.object(torch, "are_deterministic_algorithms_enabled", lambda: False):  # noqa: PT008
                yield
    finally:
        torch.use_deterministic_algorithms(False)
        deterministic.fill_uninitialized_memory = filled
