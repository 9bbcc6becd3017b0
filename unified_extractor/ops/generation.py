"""Dynamic kernels that are made from values at their own window: the formula, and its derivative, in plain torch.

B batch, R channels of the feature, G kernel groups, K taps, Ho, Wo output positions (P of them).
"""

from math import prod
from typing import Any, NamedTuple, Self

import torch.nn.functional as F
from torch import Tensor

from unified_extractor.ops.geometry import Window

NORMALISATIONS = ("none", "softmax", "sigmoid")
"""Those that need no more than the values of one window."""


class Generator(NamedTuple):
    """A dynamic kernel as a linear map of a feature: ``normalised(scale * (weight @ feature + bias))`` at every window."""

    feature: Tensor
    """``[B, R, Ho, Wo]``."""
    weight: Tensor
    """``[G*K, R]``; of a fold ``[G*K*K, R]``, output tap before source tap."""
    bias: Tensor | None
    """One for each row of the weight."""
    scale: float
    normalisation: str
    """none, sigmoid, or softmax over the taps, of a fold over the source taps."""

    def plus_one(self) -> Self:
        """What makes one plus the kernel, where that is not normalised."""
        assert self.normalisation == "none"
        bias = self.weight.new_zeros(self.weight.shape[0]) if self.bias is None else self.bias
        return self._replace(bias=bias + 1 / self.scale)


def generating_work(generator: Generator) -> int:
    """Multiply-adds of one window's kernel."""
    return generator.weight.shape[0] * generator.weight.shape[1]


def kernel_shape(generator: Generator, window: Window, aggregation: str) -> list[Any]:
    """``[B, G, K, Ho, Wo]``, of a fold ``[B, G, K, K, Ho, Wo]``."""
    taps = [window.size] * (2 if aggregation == "fold" else 1)
    return [generator.feature.shape[0], generator.weight.shape[0] // prod(taps), *taps, *window.output]


def generated_kernel(generator: Generator, window: Window, aggregation: str) -> Tensor:
    """The dynamic kernel, of :func:`kernel_shape`."""
    feature, weight, bias, scale, normalisation = generator
    values = F.conv2d(feature, weight[:, :, None, None], bias)
    return normalised(values.reshape(kernel_shape(generator, window, aggregation)) * scale, normalisation)


def generator_gradients(generator: Generator, kernel: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Those of feature, weight and bias, from the kernel that :func:`generated_kernel` made and its gradient."""
    feature, weight = generator.feature.flatten(2), generator.weight
    values = generator.scale * normalised_gradient(kernel, gradient, generator.normalisation)
    values = values.reshape(kernel.shape[0], weight.shape[0], feature.shape[2])
    of_feature = (weight.t() @ values).view_as(generator.feature)
    return of_feature, (values @ feature.transpose(1, 2)).sum(0), values.sum((0, 2))


def normalised(values: Tensor, normalisation: str) -> Tensor:
    """Softmax over the taps (axis -3: for fold the source taps), sigmoid, or as they are."""
    if normalisation == "softmax":
        return values.softmax(-3)
    return values.sigmoid() if normalisation == "sigmoid" else values


def normalised_gradient(kernel: Tensor, gradient: Tensor, normalisation: str) -> Tensor:
    """The values' gradient from that of the normalised kernel."""
    if normalisation == "softmax":
        weighed = kernel * gradient
        return weighed - kernel * weighed.sum(-3, keepdim=True)
    return gradient * kernel * (1 - kernel) if normalisation == "sigmoid" else gradient
