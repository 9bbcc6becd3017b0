"""Calls of `extract` made to measure, where random ones would not do."""

from functools import partial

import torch

import unified_extractor as ux
from tests.support.oracles import output_size
from tests.support.random_calls import as_pair
from unified_extractor.ops import checks, dispatch


def made_call(
    channels=4, size=(3, 4), kernel_size=2, *, batch=1, static=None, kernels=0, offset_groups=0, shared=(), shared_offsets=(),
    dtype=torch.float64, aggregation="gather", terms=0, per_tap=True, channel_kernel=0, **options
):  # fmt: skip
    """Keyword arguments of `extract`; static: [O, C/groups], kernels: G, offset_groups: F, shared: axes of one value for all, terms: M,
    channel_kernel: its taps."""
    generator = torch.Generator().manual_seed(channels)
    geometry = {"stride": 1, "padding": 1, "dilation": 1, "upsample": 1} | options
    out = output_size(size, kernel_size, *(geometry[name] for name in ("stride", "padding", "dilation", "upsample")))
    kh, kw = as_pair(kernel_size)
    taps = (kh * kw,) * (2 if aggregation == "fold" else 1) if per_tap else (1,)
    axis_of_terms = (terms,) if terms else ()
    shapes = {"x": (batch, channels, *size)}
    if static:
        shapes["static_kernel"] = (*axis_of_terms, *static, kh, kw)
    if kernels:
        positions = (1 if axis in shared else n for axis, n in enumerate(out))
        shapes["dynamic_kernel"] = (batch, *axis_of_terms, kernels, *taps, *positions)
    if offset_groups:
        shapes["offsets"] = (
            batch,
            offset_groups,
            kh * kw,
            2,
            *(1 if axis in shared_offsets else n for axis, n in enumerate(out)),
        )
    if channel_kernel:
        shapes["channel_kernel"] = (batch, channels, channel_kernel)
    tensors = {name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for name, shape in shapes.items()}
    return tensors | {"kernel_size": kernel_size, "padding": 1, "aggregation": aggregation} | options


def extract_or_unfold(backend, aggregation="gather", **call):
    """`extract`, or the `generalized_unfold` of a backend, which the public one does not let choose."""
    if aggregation != "unfold":
        return ux.extract(**call, aggregation=aggregation, backend=backend)
    numbers = {name: call.get(name, 1) for name in ("stride", "padding", "dilation", "upsample")}
    x, kernel_size, offsets = call["x"], call["kernel_size"], call.get("offsets")
    return dispatch.run(checks.call(x, kernel_size, None, None, offsets, None, **numbers, aggregation="unfold"), backend)


block_call = partial(made_call, size=(5, 6), kernel_size=3, batch=2)
"""A call for the compiled backend, which computes channels in blocks."""

BLOCKS = {
    "a block and a remainder": {"channels": 20, "kernels": 1},
    "two blocks and a channel, one window": {"channels": 33, "kernels": 1, "size": (1, 1)},
    "whole blocks": {"channels": 64, "kernels": 4, "kernel_size": 7, "padding": 3, "size": (6, 7)},
    "a remainder in every group": {"channels": 33, "kernels": 3, "size": (3, 3)},
    "groups of one": {"channels": 16, "kernels": 16, "offset_groups": 16, "batch": 1},
    "nested groups": {"channels": 48, "kernels": 6, "offset_groups": 3},
    "groups that do not nest": {"channels": 48, "kernels": 3, "offset_groups": 2, "kernel_size": (5, 2)},
    "a kernel a row": {"channels": 33, "kernels": 1, "shared": (1,), "size": (4, 9)},
    "depthwise": {"channels": 33, "static": (33, 1), "kernels": 3, "stride": 2},
    "depthwise, offsets": {"channels": 20, "static": (20, 1), "offset_groups": 2},
    "depthwise multiplier": {"channels": 16, "static": (48, 1), "kernels": 2},
    "dense": {"channels": 20, "static": (24, 20), "kernels": 1, "dilation": 2},
    "dense, deep": {"channels": 256, "static": (16, 256), "kernels": 1, "size": (4, 4), "batch": 1},
    "dense, offsets": {"channels": 33, "static": (17, 33), "offset_groups": 3, "batch": 3},
    "dense, kernel 1": {"channels": 48, "static": (5, 48), "kernels": 2, "kernel_size": 1, "padding": 0},
    "grouped": {"channels": 48, "static": (40, 12), "kernels": 3, "offset_groups": 2},
    "residual": {"channels": 20, "static": (20, 20), "kernels": 5, "combine": "residual"},
    "add": {"channels": 48, "static": (48, 16), "kernels": 2, "offset_groups": 4, "combine": "add"},
    "terms": {"channels": 33, "static": (33, 1), "kernels": 3, "terms": 3, "per_tap": False, "size": (5, 7)},
    "terms, a value a tap": {"channels": 48, "static": (48, 1), "kernels": 3, "terms": 2, "offset_groups": 2, "stride": 2},
    "terms, a kernel a row": {"channels": 20, "static": (20, 1), "kernels": 1, "terms": 2, "per_tap": False, "shared": (1,)},
    "terms, dense": {"channels": 20, "static": (8, 20), "kernels": 2, "terms": 2, "size": (3, 4)},
    "channel kernel": {"channels": 33, "kernels": 3, "channel_kernel": 9, "size": (4, 5)},
    "channel kernel, dense, offsets": {"channels": 20, "static": (24, 20), "kernels": 1, "channel_kernel": 9, "offset_groups": 2},
    "channel kernel, add": {"channels": 20, "static": (20, 1), "kernels": 2, "channel_kernel": 1, "combine": "add"},
    "upsample": {"channels": 33, "kernels": 3, "upsample": (1, 2), "size": (3, 4)},
    "upsample, dense, offsets": {"channels": 20, "static": (24, 20), "offset_groups": 2, "upsample": 2, "size": (2, 3)},
    "fold": {"channels": 40, "kernels": 2, "aggregation": "fold", "size": (4, 5)},
    "fold, stride 2": {"channels": 33, "kernels": 1, "aggregation": "fold", "kernel_size": (2, 3), "stride": 2},
    "fold, groups that do not nest": {"channels": 48, "kernels": 3, "offset_groups": 2, "aggregation": "fold", "kernel_size": 2},
    "fold, depthwise": {"channels": 33, "static": (33, 1), "offset_groups": 3, "aggregation": "fold", "kernel_size": 2},
    "unfold": {"channels": 33, "aggregation": "unfold", "kernel_size": (2, 3)},
    "unfold, upsample": {"channels": 16, "offset_groups": 1, "aggregation": "unfold", "upsample": 2, "size": (2, 3)},
    "unfold, offsets": {"channels": 48, "offset_groups": 2, "aggregation": "unfold", "kernel_size": 5},
}
"""Arguments of `block_call`: every way in which channels fill blocks of 16, or do not."""

WORTH_COMPILING = {"channels": 16, "kernels": 1, "kernel_size": 5, "padding": 2, "size": (4, 5)}
"""Arguments of a call that is large enough for the compiled backend to be chosen."""
