"""The static kernel in the layout of the loops, and its gradient back.

O output channels, K taps, L channels (lanes) of a channel block. A dense or grouped kernel has ``groups`` as in convolution.
"""

from functools import lru_cache
from typing import cast

import torch
from torch import Tensor

from unified_extractor.ops.backends.compiled.plan import Plan


class StaticLayout:
    """A static kernel ``[O, C/groups, kh, kw]`` in whole channel blocks, zero in lanes without a channel."""

    def __init__(self, static_kernel: Tensor | None, x: Tensor, plan: Plan) -> None:
        self.static_kernel, self.plan, self.x = static_kernel, plan, x

    def for_forward(self) -> Tensor:
        """Return ``[blocks, K, L]`` if depthwise or absent, else ``[groups, O/groups/L, blocks*K*L, L]``."""
        if not self.plan.dense_groups:
            return self._depthwise()
        return self._dense().unflatten(1, (-1, self.plan.lanes)).flatten(3).transpose(2, 3)

    def for_backward(self) -> Tensor:
        """Return ``[blocks, K, L]`` if depthwise or absent, else ``[groups, blocks*K, O/groups, L]``."""
        return self._dense().flatten(2, 3).transpose(1, 2) if self.plan.dense_groups else self._depthwise()

    def _depthwise(self) -> Tensor:
        """Return ``[blocks, K, L]``; ones without a static kernel."""
        plan = self.plan
        if self.static_kernel is None:
            return _ones(plan.block_count * plan.taps * plan.lanes, self.x.dtype)
        padded = self.x.new_zeros(plan.block_count * plan.lanes, plan.taps)
        padded[self._lane()] = self.static_kernel.detach().flatten(1)
        return padded.unflatten(0, (-1, plan.lanes)).transpose(1, 2)

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
        return self.x.new_zeros(count, *(dense if plan.dense_groups else (plan.block_count, plan.taps, plan.lanes)))

    def gradient(self, partial_sums: Tensor) -> Tensor:
        """Return the gradient ``[O, C/groups, kh, kw]`` from its partial sums."""
        total = partial_sums.sum(0)
        if self.plan.dense_groups:
            grad = total.transpose(2, 3).flatten(1, 2)[:, self._lane(), :, : self.plan.dense_outputs].permute(0, 3, 1, 2)
        else:
            grad = total.transpose(1, 2).flatten(0, 1)[self._lane()]
        return grad.reshape(cast(Tensor, self.static_kernel).shape).contiguous()

    def _lane(self) -> Tensor:
        """Return the place of each channel of a group among the lanes of the group's blocks."""
        return torch.from_numpy(self.plan.blocks.lane[: self.plan.channels // max(self.plan.dense_groups, 1)])


@lru_cache(maxsize=64)
def _ones(size: int, dtype: torch.dtype) -> Tensor:
    return torch.ones(size, dtype=dtype)
