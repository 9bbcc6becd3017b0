"""The cases of ``uniex bench kernel_memory``: whole layers that recompute their dynamic kernel or store it for backward.

Each layer also recomputes its kernel in the loops, and before the loops of each pass, against the compiled backend's rule if need be:
if the loops are slower, the rule must not choose them.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from math import inf
from unittest import mock

import torch
from torch import Tensor, nn

import unified_extractor.presets as presets
from unified_extractor.benchmarks.baselines import UnfoldInvolution
from unified_extractor.benchmarks.cases import OURS, Candidate, Case, stored, training_step
from unified_extractor.layers import UnifiedExtractor2d
from unified_extractor.spec import ExtractorSpec, Projection

Rule = Callable[[], AbstractContextManager[None]]
"""A context manager in which a layer runs."""


def layer(spec: ExtractorSpec, channels: int, size: int, stride: int = 1, batch: int = 8) -> Case:
    """Return a layer's case, forward and backward, with everything that generates its kernel."""
    chosen = UnifiedExtractor2d(channels, channels, spec, stride)
    for head in (module for name, module in chosen.named_modules() if name.endswith("head")):
        nn.init.normal_(head.weight, std=0.01)  # offsets and kernels that start at zero would hide errors
    x = torch.randn(batch, channels, size, size, requires_grad=True)
    gradient = torch.randn(*chosen(x).shape)
    forced = copy.deepcopy(chosen)
    forced.kernel_memory = "recompute"
    ways: dict[str, tuple[nn.Module, Rule]] = {
        OURS: (chosen, nullcontext),
        "recomputed in the loops": (forced, partial(_with_limit, inf)),
        "recomputed before the loops": (copy.deepcopy(forced), partial(_with_limit, 0)),
        "stored": (stored(chosen), nullcontext),
    }
    if spec == presets.involution(7):
        ways["unfold"] = UnfoldInvolution(copy.deepcopy(chosen)), nullcontext
    candidates = {name: _candidate(module, rule, x, gradient) for name, (module, rule) in ways.items()}
    known = [tensor for module, _ in ways.values() for tensor in (*module.parameters(), *module.buffers())]
    return Case(candidates, (x, *known, gradient), torch.float32)


@contextmanager
def _with_limit(ratio: float) -> Iterator[None]:
    """Replace the limit of the compiled backend's rule inside the context."""
    from unified_extractor.ops.backends.compiled import recomputing

    with mock.patch.object(recomputing, "MOST_WORK", ratio):
        yield


def _candidate(module: nn.Module, rule: Rule, x: Tensor, gradient: Tensor) -> Candidate:
    parameters = list(module.parameters())

    def forward() -> Tensor:
        with rule():
            output: Tensor = module(x)
        return output

    def step() -> list[Tensor]:
        with rule():
            output = module(x)
            return [output, *torch.autograd.grad(output, [x, *parameters], gradient)]

    return Candidate(forward, step, step)


_ATTENTION = replace(presets.local_attention(7, heads=4), projection=Projection(input="linear", output="affine"))
"""Local attention without biases: the gradient of the keys' bias is zero, so its rounding errors cannot be compared."""

KERNEL_MEMORY_CASES: dict[str, Callable[[], Case]] = {
    "involution layer 64x56x56": partial(layer, presets.involution(7), 64, 56),
    "involution layer 128x28x28": partial(layer, presets.involution(7), 128, 28),
    "involution layer 256x14x14": partial(layer, presets.involution(7), 256, 14),
    "involution layer 512x7x7": partial(layer, presets.involution(7), 512, 7),
    "outlook layer 192x28x28": partial(layer, presets.outlook_attention(3, heads=6), 192, 28, 2),
    "DCNv3 layer 64x56x56": partial(layer, presets.deformable_convolution(3, groups=4), 64, 56),
    "DCNv3 layer 256x14x14": partial(layer, presets.deformable_convolution(3, groups=16), 256, 14),
    "DCNv4 layer 64x56x56": partial(layer, presets.deformable_convolution(4, groups=4), 64, 56),
    "local attention layer 64x56x56": partial(layer, _ATTENTION, 64, 56),
    "RedNet-26 step 3x112x112": training_step,
}
"""The cases of ``uniex bench kernel_memory``, each a function: batch 8."""
