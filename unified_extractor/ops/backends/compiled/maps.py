"""A generator as the loops take it, and its gradients back.

B batch, R channels of the feature, G kernel groups, P positions, T positions in a tile.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from unified_extractor.ops.backends.compiled.dynamic_kernel import Generator, GeneratorGradients
from unified_extractor.ops.backends.compiled.plan import NONE, SIGMOID, SOFTMAX, Plan
from unified_extractor.ops.call import Wanted
from unified_extractor.ops.dynamic_kernels import AttentionKernel, ComputedKernel, LinearKernel, scaled

CODES = {"none": NONE, "softmax": SOFTMAX, "sigmoid": SIGMOID}
_NOTHING = Generator(None, None, None, None)


def map_of(kernel: ComputedKernel | None, plan: Plan, *, backward: bool) -> Generator:
    """Return what a kernel is computed from, in whole blocks of L, as a pass takes it, scale included; nothing where it is stored."""
    if kernel is None:
        return _NOTHING
    generated, lanes = plan.generated, plan.lanes
    if isinstance(kernel, AttentionKernel):
        return Generator(kernel.query.contiguous(), kernel.key.contiguous(), None, _bias(kernel.position, kernel.key, plan))
    weight, bias = (
        None if t is None else scaled(t.detach().view(plan.dynamic_kernel.groups, generated.rows, -1), kernel.scale)
        for t in (kernel.weight, kernel.bias)
    )
    assert weight is not None
    return Generator(
        kernel.feature.contiguous(),
        _panels(F.pad(weight.transpose(1, 2), (0, generated.padded_rows - generated.rows)), lanes),
        _panels(F.pad(weight, (0, generated.padded_depth - generated.depth)), lanes) if backward else None,
        _bias(bias, kernel.weight, plan),
    )


def _bias(bias: Tensor | None, like: Tensor, plan: Plan) -> Tensor:
    """Return what is added to the values, ``[G, columns]``."""
    generated, groups = plan.generated, plan.dynamic_kernel.groups
    if bias is None:
        return _zeros(groups * generated.padded_rows, like.dtype)
    return F.pad(bias.detach().reshape(groups, generated.rows), (0, generated.padded_rows - generated.rows))


@lru_cache(maxsize=64)
def _zeros(size: int, dtype: torch.dtype) -> Tensor:
    return torch.zeros(size, dtype=dtype)


def _panels(matrices: Tensor, lanes: int) -> Tensor:
    """``[G, rows, columns]`` as ``[G, columns/L, rows, L]``."""
    return matrices.unflatten(2, (-1, lanes)).transpose(1, 2).contiguous()


class MapSums:
    """Partial sums of the gradients of what a kernel is computed from, where they are wanted."""

    def __init__(self, kernel: ComputedKernel | None, plan: Plan, wanted: Wanted, count: int, tile: int) -> None:
        self.kernel, self.plan = kernel, plan
        self.shares = GeneratorGradients(None, None, None)
        if kernel is None:
            return
        groups, generated = plan.dynamic_kernel.groups, plan.generated
        if isinstance(kernel, AttentionKernel):
            feature, shares, of_weight = kernel.query, 1, (1, *kernel.key.shape)
        else:
            feature, shares, of_weight = (
                kernel.feature,
                plan.bundle_count,
                (count, groups, generated.padded_depth, generated.rows),
            )
        self.shares = GeneratorGradients(
            feature.new_empty(shares, *feature.shape) if wanted.feature else None,
            feature.new_zeros(of_weight) if wanted.weight else None,
            feature.new_zeros(count, groups, generated.rows, tile) if wanted.bias else None,
        )

    def gradients(self) -> list[Tensor | None]:
        """Return the gradients of a linear kernel's feature, weight and bias, or of attention's query, keys and position."""
        feature, weight, bias = self.shares
        grad_feature = None if feature is None else feature.sum(0) if feature.shape[0] > 1 else feature[0]
        total = None if bias is None else bias.sum((0, 3))
        if isinstance(self.kernel, LinearKernel):
            scale = self.kernel.scale
            return [
                grad_feature,
                None if weight is None else scale * self._rows(weight.sum(0)),
                None if total is None else scale * total.flatten(),
            ]
        position = None if self.kernel is None else self.kernel.position
        return [
            grad_feature,
            None if weight is None else weight[0],
            None if total is None or position is None else total.view(position.shape),
        ]

    def _rows(self, panels: Tensor) -> Tensor:
        """Return ``[G*rows, R]`` from ``[G, width/L, rows, L]``."""
        generated = self.plan.generated
        rows = panels.view(len(panels), -1, generated.rows, self.plan.lanes).transpose(1, 2).flatten(2)
        return rows[:, :, : generated.depth].flatten(0, 1)
