"""Calls of `extract` made to measure, where random ones would not do."""

import torch

import unified_extractor as ux
from tests.support.oracles import output_size
from tests.support.random_calls import as_pair
from unified_extractor.ops import checks, dispatch


def made_call(
    channels=4, size=(3, 4), kernel_size=2, *, batch=1, static=None, kernels=0, moved=0, shared=(), shared_moves=(),
    dtype=torch.float64, aggregation="gather", **options
):  # fmt: skip
    """Keyword arguments of `extract`; static: [O, C/groups], kernels: G, moved: F, shared: axes along which one value serves all."""
    generator = torch.Generator().manual_seed(channels)
    geometry = {"stride": 1, "padding": 1, "dilation": 1} | options
    out = output_size(size, kernel_size, geometry["stride"], geometry["padding"], geometry["dilation"])
    kh, kw = as_pair(kernel_size)
    taps = (kh * kw,) * (2 if aggregation == "fold" else 1)
    shapes = {"x": (batch, channels, *size)}
    if static:
        shapes["static_kernel"] = (*static, kh, kw)
    if kernels:
        shapes["dynamic_kernel"] = (batch, kernels, *taps, *(1 if axis in shared else n for axis, n in enumerate(out)))
    if moved:
        shapes["offsets"] = (batch, moved, kh * kw, 2, *(1 if axis in shared_moves else n for axis, n in enumerate(out)))
    tensors = {name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for name, shape in shapes.items()}
    return tensors | {"kernel_size": kernel_size, "padding": 1, "aggregation": aggregation} | options


def extract_or_unfold(backend, aggregation="gather", **call):
    """`extract`, or the `generalized_unfold` of a backend, which the public one does not let choose."""
    if aggregation != "unfold":
        return ux.extract(**call, aggregation=aggregation, backend=backend)
    geometry = [call.get(name, 1) for name in ("stride", "padding", "dilation")]
    window = checks.geometry(call["x"], call["kernel_size"], *geometry)
    return dispatch.choose(backend, call["x"], 0).generalized_unfold(call["x"], call.get("offsets"), window)
