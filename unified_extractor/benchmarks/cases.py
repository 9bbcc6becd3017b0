"""What is compared: shapes from published networks, each with its rivals. Made when asked for, since tensors take memory."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import deform_conv2d

from unified_extractor import presets
from unified_extractor.benchmarks.rivals import (
    grid_sample_multiply_sum,
    unfold_matmul_fold,
    unfold_multiply_sum,
    with_unfold,
)
from unified_extractor.models import rednet26
from unified_extractor.ops import checks
from unified_extractor.ops.composed import compose_fold
from unified_extractor.ops.functional import extract

OURS = "unified_extractor"


@dataclass(frozen=True)
class Candidate:
    """One way to compute something, forward and backward."""

    forward: Callable[[], object]
    step: Callable[[], Sequence[Tensor]]
    """Forward and backward; returns output and gradients."""
    values: Callable[[], Sequence[Tensor]] | None
    """What must equal ours; None where it computes something else."""


@dataclass(frozen=True)
class Case:
    """Candidates that do the same, ours first."""

    candidates: dict[str, Candidate]
    multiply_adds: int
    """Of forward and backward, by the operator's formula; 0 where not stated."""
    inputs: Sequence[Tensor]
    """Tensors that exist before a step."""


def involution(channels: int, size: int, batch: int = 8) -> Case:
    """RedNet-50's involutions: 7x7 taps, 16 channels a kernel. A static depthwise convolution of 7x7 taps stands beside it."""
    x, kernel = _leaf(batch, channels, size, size), _leaf(batch, channels // 16, 49, size, size)
    static = _leaf(channels, 1, 7, 7)
    gradient = torch.randn(batch, channels, size, size)

    def ours(backend: str | None = None) -> Tensor:
        return extract(x, kernel_size=7, dynamic_kernel=kernel, padding=3, backend=backend)

    return Case(
        {
            OURS: _candidate(ours, (x, kernel), gradient),
            "eager": _candidate(lambda: ours("eager"), (x, kernel), gradient),
            "unfold": _candidate(lambda: unfold_multiply_sum(x, kernel, 7), (x, kernel), gradient),
            "depthwise": _candidate(
                lambda: F.conv2d(x, static, None, 1, 3, 1, channels), (x, static), gradient, comparable=False
            ),
        },
        3 * batch * channels * 49 * size**2,
        (x, kernel, gradient),
    )


def deformable_convolution_v2(batch: int = 8, channels: int = 64, size: int = 56) -> Case:
    """DCNv2 with one offset group and a mask; offsets of a few pixels."""
    x, static = _leaf(batch, channels, size, size), _leaf(channels, channels, 3, 3)
    offsets = (2 * torch.randn(batch, 18, size, size)).requires_grad_()
    mask = torch.rand(batch, 9, size, size).requires_grad_()
    gradient = torch.randn(batch, channels, size, size)
    leaves = (x, static, offsets, mask)

    def ours(backend: str | None = None) -> Tensor:
        kernel, moves = mask.unsqueeze(1), offsets.view(batch, 1, 9, 2, size, size)
        return extract(x, kernel_size=3, static_kernel=static, dynamic_kernel=kernel, offsets=moves, padding=1, backend=backend)

    return Case(
        {
            OURS: _candidate(ours, leaves, gradient),
            "eager": _candidate(lambda: ours("eager"), leaves, gradient),
            "torchvision": _candidate(lambda: deform_conv2d(x, offsets, static, None, 1, 1, 1, mask), leaves, gradient),
        },
        batch * 9 * size**2 * channels * (3 * channels + 4 + 4 + 8 + 3),
        (*leaves, gradient),
    )


def deformable_convolution_v4(batch: int = 8, channels: int = 64, size: int = 56) -> Case:
    """The core of DCNv3 and DCNv4: four groups, each with offsets and kernel of its own."""
    x, kernel = _leaf(batch, channels, size, size), _leaf(batch, 4, 9, size, size)
    offsets = (2 * torch.randn(batch, 4, 9, 2, size, size)).requires_grad_()
    gradient = torch.randn(batch, channels, size, size)
    leaves = (x, kernel, offsets)

    def ours(backend: str | None = None) -> Tensor:
        return extract(x, kernel_size=3, dynamic_kernel=kernel, offsets=offsets, padding=1, backend=backend)

    return Case(
        {
            OURS: _candidate(ours, leaves, gradient),
            "eager": _candidate(lambda: ours("eager"), leaves, gradient),
            "grid_sample": _candidate(lambda: grid_sample_multiply_sum(x, kernel, offsets, 3), leaves, gradient),
        },
        batch * 9 * size**2 * channels * (3 + 4 + 4 + 8),
        (*leaves, gradient),
    )


def outlook_attention(batch: int = 8, channels: int = 192, size: int = 28, heads: int = 6) -> Case:
    """VOLO-D1's outlook attention after its generator: 3x3 taps, stride 2."""
    x, kernel = _leaf(batch, channels, size, size), _leaf(batch, heads, 9, 9, size // 2, size // 2)
    gradient = torch.randn(batch, channels, size, size)

    def ours(backend: str | None = None) -> Tensor:
        return extract(x, kernel_size=3, dynamic_kernel=kernel, stride=2, padding=1, aggregation="fold", backend=backend)

    def composed() -> Tensor:
        window = checks.window(x, 3, 2, 1, 1)
        return extract(x, kernel_size=5, dynamic_kernel=compose_fold(kernel, window), padding=2)

    return Case(
        {
            OURS: _candidate(ours, (x, kernel), gradient),
            "eager": _candidate(lambda: ours("eager"), (x, kernel), gradient),
            "composed": _candidate(composed, (x, kernel), gradient),
            "unfold-matmul-fold": _candidate(lambda: unfold_matmul_fold(x, kernel, 3, 2), (x, kernel), gradient),
        },
        3 * batch * channels * 81 * (size // 2) ** 2,
        (x, kernel, gradient),
    )


def convolution(batch: int = 8, channels: int = 64, size: int = 56) -> Case:
    """A static kernel alone, which goes to torch's convolution."""
    x, static, gradient = (
        _leaf(batch, channels, size, size),
        _leaf(channels, channels, 3, 3),
        torch.randn(batch, channels, size, size),
    )
    return Case(
        {
            OURS: _candidate(lambda: extract(x, kernel_size=3, static_kernel=static, padding=1), (x, static), gradient),
            "torch": _candidate(lambda: F.conv2d(x, static, padding=1), (x, static), gradient),
        },
        3 * batch * channels**2 * 9 * size**2,
        (x, static, gradient),
    )


def training_step(batch: int = 8, size: int = 112) -> Case:
    """RedNet-26: forward, cross entropy, backward, SGD."""
    network = rednet26(spec=presets.involution(kernel_size=7))
    images, labels = torch.randn(batch, 3, size, size), torch.randint(1000, (batch,))
    networks = {OURS: network, "unfold": with_unfold(copy.deepcopy(network))}

    def step(network: torch.nn.Module, images: Tensor) -> Callable[[], list[Tensor]]:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.0)  # all the work of a step, and every step the same

        def run() -> list[Tensor]:
            optimizer.zero_grad()
            loss = F.cross_entropy(network(images), labels)
            loss.backward()
            optimizer.step()
            return [loss, torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])]

        return run

    def candidate(network: torch.nn.Module) -> Candidate:
        exact = step(copy.deepcopy(network).double(), images.double())  # through 26 layers float32 differs by a percent
        return Candidate(lambda: network(images), step(network, images), exact)

    made = {name: candidate(network) for name, network in networks.items()}
    parameters = [p for network in networks.values() for p in network.parameters()]
    return Case(made, 0, (images, *parameters))


def _leaf(*shape: int) -> Tensor:
    return torch.randn(*shape).requires_grad_()


def _candidate(
    forward: Callable[[], Tensor], leaves: Sequence[Tensor], gradient: Tensor, *, comparable: bool = True
) -> Candidate:
    def step() -> list[Tensor]:
        output = forward()
        return [output, *torch.autograd.grad(output, leaves, gradient)]

    return Candidate(forward, step, step if comparable else None)


CPU_CASES: dict[str, Callable[[], Case]] = {
    "involution 64x56x56": partial(involution, 64, 56),
    "involution 128x28x28": partial(involution, 128, 28),
    "involution 256x14x14": partial(involution, 256, 14),
    "involution 512x7x7": partial(involution, 512, 7),
    "DCNv2 64x56x56": deformable_convolution_v2,
    "DCNv4 64x56x56": deformable_convolution_v4,
    "outlook 192x28x28": outlook_attention,
    "convolution 64x56x56": convolution,
    "RedNet-26 step 3x112x112": training_step,
}
"""The cases of ``uniex bench cpu``, made when called: batch 8."""
