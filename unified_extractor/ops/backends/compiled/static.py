"""The static kernel as the loops take it, and its gradient back.

O output channels, K taps, L channels (lanes) of a block. Where the kernel mixes channels, ``groups`` are those of a grouped convolution.
"""

from functools import lru_cache
from typing import cast

import torch
from torch import Tensor

from unified_extractor.ops.backends.compiled.tables import Plan


class StaticLayout:
    """A static kernel ``[O, C/groups, kh, kw]`` in whole blocks of L channels, zero in lanes without a channel."""

    def __init__(self, static: Tensor | None, x: Tensor, plan: Plan) -> None:
        self.static, self.plan, self.x, self.lanes = static, plan, x, int(plan.tile[1])

    def for_forward(self) -> Tensor:
        """``[blocks, K, L]`` or, where it mixes channels, ``[groups, O/groups/L, blocks*K*L, L]``."""
        if not self.plan.mixes:
            return self._alone()
        return self._mixing().unflatten(1, (-1, self.lanes)).flatten(3).transpose(2, 3)

    def for_backward(self) -> Tensor:
        """``[blocks, K, L]`` or, where it mixes channels, ``[groups, blocks*K, O/groups, L]``."""
        return self._mixing().flatten(2, 3).transpose(1, 2) if self.plan.mixes else self._alone()

    def _alone(self) -> Tensor:
        """``[blocks, K, L]``; ones without a static kernel."""
        if self.static is None:
            return _ones(self.plan.block_count * self.plan.taps * self.lanes, self.x.dtype)
        padded = self.x.new_zeros(self.plan.block_count * self.lanes, self.plan.taps)
        padded[self._lane()] = self.static.detach().flatten(1)
        return padded.unflatten(0, (-1, self.lanes)).transpose(1, 2)

    def _mixing(self) -> Tensor:
        """``[groups, O/groups, blocks, K, L]``."""
        plan, static = self.plan, cast(Tensor, self.static)
        padded = self.x.new_zeros(plan.mixes, plan.mix_width, plan.mix_blocks * self.lanes, plan.taps)
        padded[:, : plan.mix_outputs, self._lane()] = static.detach().flatten(2).unflatten(0, (plan.mixes, -1))
        return padded.unflatten(2, (plan.mix_blocks, -1)).transpose(3, 4)

    def new_sums(self, count: int) -> Tensor:
        """Zeros for so many partial sums of the gradient: ``[count, blocks, K, L]`` or ``[count, groups, blocks, K, L, O/groups]``."""
        plan = self.plan
        mixing = (plan.mixes, plan.mix_blocks, plan.taps, self.lanes, plan.mix_width)
        return self.x.new_zeros(count, *(mixing if plan.mixes else (plan.block_count, plan.taps, self.lanes)))

    def from_sums(self, sums: Tensor) -> Tensor:
        """The gradient ``[O, C/groups, kh, kw]``."""
        total = sums.sum(0)
        if self.plan.mixes:
            gradient = total.transpose(2, 3).flatten(1, 2)[:, self._lane(), :, : self.plan.mix_outputs].permute(0, 3, 1, 2)
        else:
            gradient = total.transpose(1, 2).flatten(0, 1)[self._lane()]
        return gradient.reshape(cast(Tensor, self.static).shape).contiguous()

    def _lane(self) -> Tensor:
        """Of the channels of a group: their place among the lanes of its blocks."""
        return torch.from_numpy(self.plan.blocks.lane[: self.plan.channels // max(self.plan.mixes, 1)])


@lru_cache(maxsize=64)
def _ones(size: int, dtype: torch.dtype) -> Tensor:
    return torch.ones(size, dtype=dtype)
