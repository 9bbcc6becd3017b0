"""Static kernels, and the tensors of computed kernels, in the layout of the loops, and their gradients back.

B batch, O output channels, R channels of the feature, G kernel groups, K taps, P positions, T positions in a tile, L channels (lanes) of a
channel block. A dense or grouped static kernel has ``groups`` as in convolution.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from unified_extractor.ops.backends.compiled.dynamic_kernel import KernelGradients, KernelTensors
from unified_extractor.ops.backends.compiled.plan import Plan
from unified_extractor.ops.backends.compiled.registers import T
from unified_extractor.ops.call import Wanted
from unified_extractor.ops.dynamic_kernels import AttentionKernel, ComputedKernel, LinearKernel, scaled

_NO_TENSORS = KernelTensors(None, None, None, None)
_ZEROS: dict[torch.dtype, Tensor] = {}
"""Zeros in place of an absent bias; one tensor a dtype."""
_NO_GRADIENTS = KernelGradients(None, None, None)


class StaticLayout:
    """A static kernel ``[O, C/groups, kh, kw]`` in whole channel blocks, zero in lanes without a channel.

    With M terms it is depthwise, ``[M, C, 1, kh, kw]``, and has M*K rows in the place of K.
    """

    def __init__(self, static_kernel: Tensor | None, x: Tensor, plan: Plan) -> None:
        self.static_kernel, self.plan, self.x = static_kernel, plan, x
        self.rows = max(plan.terms, 1) * plan.taps

    def for_forward(self) -> Tensor | None:
        """Return ``[blocks, K, L]`` if depthwise, None if absent, else ``[groups, O/groups/L, blocks*K*L, L]``."""
        if not self.plan.dense_groups:
            return self._depthwise()
        return self._dense().unflatten(1, (-1, self.plan.lanes)).flatten(3).transpose(2, 3).contiguous()

    def for_backward(self) -> Tensor | None:
        """Return ``[blocks, K, L]`` if depthwise, None if absent, else ``[groups, blocks*K, O/groups, L]``."""
        return self._dense().flatten(2, 3).transpose(1, 2).contiguous() if self.plan.dense_groups else self._depthwise()

    def _depthwise(self) -> Tensor | None:
        """Return ``[blocks, K, L]``."""
        plan = self.plan
        if self.static_kernel is None:
            return None
        static_kernel = self.static_kernel.detach()
        by_channel = static_kernel.transpose(0, 1) if plan.terms else static_kernel
        padded = self.x.new_zeros(plan.block_count * plan.lanes, self.rows)
        padded[self._lane()] = by_channel.flatten(1)
        return padded.unflatten(0, (-1, plan.lanes)).transpose(1, 2).contiguous()

    def _dense(self) -> Tensor:
        """Return ``[groups, O/groups, blocks, K, L]``."""
        plan, static_kernel = self.plan, cast(Tensor, self.static_kernel)
        padded = self.x.new_zeros(plan.dense_groups, plan.padded_outputs, plan.dense_blocks * plan.lanes, plan.taps)
        padded[:, : plan.dense_outputs, self._lane()] = static_kernel.detach().flatten(2).unflatten(0, (plan.dense_groups, -1))
        return padded.unflatten(2, (plan.dense_blocks, -1)).transpose(3, 4)

    def new_partial_sums(self, count: int) -> Tensor:
        """Return zeros for partial sums of the gradient, ``[count, blocks, K, L]`` or ``[count, groups, blocks, K, L, O/groups]``."""
        plan = self.plan
        dense = (plan.dense_groups, plan.dense_blocks, plan.taps, plan.lanes, plan.padded_outputs)
        return self.x.new_zeros(count, *(dense if plan.dense_groups else (plan.block_count, self.rows, plan.lanes)))

    def gradient(self, partial_sums: Tensor) -> Tensor:
        """Return the gradient ``[O, C/groups, kh, kw]`` from its partial sums."""
        total = partial_sums.sum(0)
        if self.plan.dense_groups:
            grad = total.transpose(2, 3).flatten(1, 2)[:, self._lane(), :, : self.plan.dense_outputs].permute(0, 3, 1, 2)
        else:
            grad = total.transpose(1, 2).flatten(0, 1)[self._lane()]
            grad = grad.unflatten(1, (-1, self.plan.taps)).transpose(0, 1) if self.plan.terms else grad
        return grad.reshape(cast(Tensor, self.static_kernel).shape).contiguous()

    def _lane(self) -> Tensor:
        """Return the place of each channel of a group among the lanes of the group's blocks."""
        return torch.from_numpy(self.plan.blocks.lane[: self.plan.channels // max(self.plan.dense_groups, 1)])


class ComputedLayout:
    """The tensors that a dynamic kernel is computed from, a linear map in whole vectors of L; none of a stored kernel."""

    def __init__(self, kernel: ComputedKernel | None, plan: Plan) -> None:
        self.kernel, self.plan = kernel, plan

    def tensors(self, *, backward: bool) -> KernelTensors:
        """Return the tensors, with the scale of a linear map in its weight and bias."""
        kernel, plan = self.kernel, self.plan
        if kernel is None:
            return _NO_TENSORS
        if isinstance(kernel, AttentionKernel):
            return KernelTensors(
                kernel.query.contiguous(), kernel.key.contiguous(), None, self._bias(kernel.position, kernel.key)
            )
        computed = plan.computed
        weight, bias = (
            None if t is None else scaled(t.detach().view(plan.dynamic_kernel.groups, computed.rows, -1), kernel.scale)
            for t in (kernel.weight, kernel.bias)
        )
        assert weight is not None
        return KernelTensors(
            kernel.feature.contiguous(),
            self._panels(F.pad(weight.transpose(1, 2), (0, computed.padded_rows - computed.rows))),
            self._panels(F.pad(weight, (0, computed.padded_depth - computed.depth))) if backward else None,
            self._bias(bias, kernel.weight),
        )

    def _bias(self, bias: Tensor | None, like: Tensor) -> Tensor:
        """Return the addend of the values, ``[G, padded rows]``."""
        computed, groups = self.plan.computed, self.plan.dynamic_kernel.groups
        if bias is None:
            return _zeros(groups * computed.padded_rows, like.dtype)
        return F.pad(bias.detach().reshape(groups, computed.rows), (0, computed.padded_rows - computed.rows))

    def _panels(self, matrices: Tensor) -> Tensor:
        """Return matrices ``[G, rows, columns]`` as ``[G, columns/L, rows, L]``."""
        return matrices.unflatten(2, (-1, self.plan.lanes)).transpose(1, 2).contiguous()

    def new_partial_sums(self, count: int, wanted: Wanted) -> KernelGradients:
        """Return memory for partial sums of the wanted gradients; attention's query and keys have one each."""
        kernel, plan = self.kernel, self.plan
        if kernel is None:
            return _NO_GRADIENTS
        groups, computed = plan.dynamic_kernel.groups, plan.computed
        weight_shape: tuple[int, ...]
        if isinstance(kernel, AttentionKernel):
            feature, bundles, weight_shape = kernel.query, 1, (1, *kernel.key.shape)
        else:
            feature, bundles, weight_shape = (
                kernel.feature,
                plan.bundle_count,
                (count, groups, computed.padded_depth, computed.rows),
            )
        return KernelGradients(
            feature.new_empty(bundles, *feature.shape) if wanted.feature else None,
            feature.new_zeros(weight_shape) if wanted.weight else None,
            feature.new_zeros(count, groups, computed.rows, T) if wanted.bias else None,
        )

    def gradients(self, partial_sums: KernelGradients) -> list[Tensor | None]:
        """Return the gradients of a linear map's feature, weight and bias, or of attention's query, keys and position."""
        feature, weight, bias = partial_sums
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
        """Return ``[G*rows, R]`` from ``[G, padded depth/L, rows, L]``."""
        computed = self.plan.computed
        rows = panels.view(len(panels), -1, computed.rows, self.plan.lanes).transpose(1, 2).flatten(2)
        return rows[:, :, : computed.depth].flatten(0, 1)


def _zeros(size: int, dtype: torch.dtype) -> Tensor:
    """Return at least ``size`` zeros: the same tensor for every call that asks for no more than one before."""
    found = _ZEROS.get(dtype)
    if found is None or found.numel() < size:
        found = _ZEROS[dtype] = torch.zeros(size, dtype=dtype)
    return found
