"""A generator as the loops take it, and its gradients back.

B batch, R channels of the feature, G kernel groups, P positions, T positions in a tile.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from unified_extractor.ops.backends.compiled.dynamic_kernel import Generator, GeneratorGradients
from unified_extractor.ops.backends.compiled.plan import NONE, SIGMOID, SOFTMAX, Plan
from unified_extractor.ops.custom_ops import Call, Wanted
from unified_extractor.ops.dynamic_kernels import KernelGenerator, generating_work

CODES = {"none": NONE, "softmax": SOFTMAX, "sigmoid": SIGMOID}
_NOTHING = Generator(None, None, None, None)
_WORTH_GENERATING = 2
"""Multiply-adds that make a kernel, for each in which it is used, up to which the loops make it faster than a matrix product does.

Measured in ``benchmarks/fused.md`` with involution, outlook attention and deformable convolution at the sizes of the published networks.
"""


def generates(call: Call) -> bool:
    """Whether making this call's kernel in the loops is faster than to make it first and keep it."""
    assert call.generator is not None
    channels = call.x.shape[1]
    outputs = 1 if call.static is None else call.static.shape[0] * call.static.shape[1] // channels
    results = call.geometry.taps if call.aggregation == "fold" else 1
    used = results * call.geometry.taps * channels * outputs
    return generating_work(call.generator, call.geometry) <= _WORTH_GENERATING * used


def map_of(generator: KernelGenerator | None, plan: Plan, *, backward: bool) -> Generator:
    """The linear map with its scale, in whole blocks of L, as a pass takes it; without a generator there is none."""
    if generator is None:
        return _NOTHING
    generated, lanes = plan.generated, plan.lanes
    if generator.heads:
        query = generator.feature if generator.scale == 1 else generator.scale * generator.feature
        bias = generator.bias if generator.bias is None else generator.scale * generator.bias
        return Generator(query.contiguous(), generator.weight.contiguous(), None, _bias(bias, generator, plan))
    weight, bias = (
        (None if t is None else t.detach().view(plan.dynamic_kernel.groups, generated.rows, -1)) for t in generator[1:3]
    )
    assert weight is not None
    if generator.scale != 1:
        weight, bias = generator.scale * weight, None if bias is None else generator.scale * bias
    return Generator(
        generator.feature.contiguous(),
        _panels(F.pad(weight.transpose(1, 2), (0, generated.padded_rows - generated.rows)), lanes),
        _panels(F.pad(weight, (0, generated.padded_depth - generated.depth)), lanes) if backward else None,
        _bias(bias, generator, plan),
    )


def _bias(bias: Tensor | None, generator: KernelGenerator, plan: Plan) -> Tensor:
    """``[G, columns]``."""
    generated, groups = plan.generated, plan.dynamic_kernel.groups
    if bias is None:
        return _zeros(groups * generated.padded_rows, generator.weight.dtype)
    return F.pad(bias.detach().view(groups, generated.rows), (0, generated.padded_rows - generated.rows))


@lru_cache(maxsize=64)
def _zeros(size: int, dtype: torch.dtype) -> Tensor:
    return torch.zeros(size, dtype=dtype)


def _panels(matrices: Tensor, lanes: int) -> Tensor:
    """``[G, rows, columns]`` as ``[G, columns/L, rows, L]``."""
    return matrices.unflatten(2, (-1, lanes)).transpose(1, 2).contiguous()


class MapSums:
    """Shares of a generator's gradients, where they are wanted."""

    def __init__(self, generator: KernelGenerator | None, plan: Plan, wanted: Wanted, count: int, tile: int) -> None:
        self.generator, self.plan = generator, plan
        self.shares = GeneratorGradients(None, None, None)
        if generator is None:
            return
        groups, generated, feature, keys = plan.dynamic_kernel.groups, plan.generated, generator.feature, generator.weight
        shares = 1 if generator.heads else plan.bundle_count
        of_weight = (1, *keys.shape) if generator.heads else (count, groups, generated.padded_depth, generated.rows)
        self.shares = GeneratorGradients(
            feature.new_empty(shares, *feature.shape) if wanted.feature else None,
            feature.new_zeros(of_weight) if wanted.weight else None,
            feature.new_zeros(count, groups, generated.rows, tile) if wanted.bias else None,
        )

    def gradients(self) -> list[Tensor | None]:
        """Of feature, weight and bias."""
        feature, weight, bias = self.shares
        scale, heads = (1.0, 0) if self.generator is None else (self.generator.scale, self.generator.heads)
        of_feature = None if feature is None else feature.sum(0) if feature.shape[0] > 1 else feature[0]
        return [
            scale * of_feature if heads and scale != 1 and of_feature is not None else of_feature,
            None if weight is None else weight[0] if heads else scale * self._rows(weight.sum(0)),
            None if bias is None else scale * bias.sum((0, 3)).flatten(),
        ]

    def _rows(self, panels: Tensor) -> Tensor:
        """``[G*rows, R]`` from ``[G, width/L, rows, L]``."""
        generated = self.plan.generated
        rows = panels.view(len(panels), -1, generated.rows, self.plan.lanes).transpose(1, 2).flatten(2)
        return rows[:, :, : generated.depth].flatten(0, 1)
