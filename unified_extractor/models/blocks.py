"""Blocks that several families use. Feature maps are ``[B, C, H, W]``."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from unified_extractor.layers.drop_in import ExtractorConv2d
from unified_extractor.layers.extractor import UnifiedExtractor2d
from unified_extractor.layers.placed import check_keeps_size
from unified_extractor.spec import ExtractorSpec


class Residual(nn.Sequential):
    """A residual branch: ``x + f(x)``, where f is the named modules one after another.

    Stochastic depth drops f(x) of whole images with probability ``drop_path`` in training.
    """

    def __init__(self, branch: dict[str, nn.Module], drop_path: float = 0.0) -> None:
        super().__init__(OrderedDict(branch | stochastic_depth(drop_path)))

    def forward(self, input: Tensor) -> Tensor:
        """Return a map of the input's shape ``[B, C, H, W]``."""
        return input + super().forward(input)


class LayerScale(nn.Module):
    """A learned factor for every channel (LayerScale, Touvron et al. 2021)."""

    def __init__(self, channels: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the input's shape ``[B, C, H, W]``."""
        return x * self.gamma[:, None, None]


class StochasticDepth(nn.Module):
    """Stochastic depth: in training, the map of a whole image is 0 with probability ``p``, and divided by ``1 - p`` otherwise.

    It draws the numbers that ``torchvision.ops.StochasticDepth(p, "row")`` draws; torchvision itself is no package of the core.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"p must lie in 0 to 1, got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the input's shape ``[B, C, H, W]``."""
        if not self.training or self.p == 0.0:
            return x
        kept = x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(1.0 - self.p)
        return x * (kept if self.p == 1.0 else kept.div_(1.0 - self.p))

    def extra_repr(self) -> str:
        """Return the probability, for the printed network."""
        return f"p={self.p}"


def stochastic_depth(drop_path: float) -> dict[str, nn.Module]:
    """Return stochastic depth (Huang et al. 2016) under the name ``drop_path``, or nothing for a probability of 0."""
    if not drop_path:
        return {}
    return {"drop_path": StochasticDepth(drop_path)}


def pointwise_mlp(channels: int, ratio: float, *, output_bias: bool = True) -> nn.Sequential:
    """Return an MLP of every pixel's channels: 1x1 convolution to ``ratio`` times as many, GELU, 1x1 convolution back."""
    hidden = max(1, round(channels * ratio))
    steps = {"fc1": nn.Conv2d(channels, hidden, 1), "act": nn.GELU(), "fc2": nn.Conv2d(hidden, channels, 1, bias=output_bias)}
    return nn.Sequential(OrderedDict(steps))


def extractor_in_place(in_channels: int, out_channels: int, spec: ExtractorSpec, stride: int = 1) -> ExtractorConv2d:
    """Return an extractor in the place of a convolution that may change the number of channels, which not every spec can by itself.

    Raises:
        ValueError: a padding that changes the size of the map, a spec that upsamples it, or groups that do not divide the channels.
    """
    check_keeps_size(spec)
    return ExtractorConv2d(in_channels, out_channels, spec, stride, margin=0)


def convolution_norm(
    in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, *, activate: bool = True
) -> nn.Sequential:
    """Return a convolution, batch norm and, with ``activate``, ReLU."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
    return nn.Sequential(convolution, *batch_norm(out_channels, activate=activate))


def batch_norm(channels: int, *, activate: bool = True) -> list[nn.Module]:
    """Return batch norm and, with ``activate``, ReLU."""
    return [nn.BatchNorm2d(channels), *([nn.ReLU(inplace=True)] if activate else [])]


def init_linear(network: nn.Module) -> None:
    """Initialize linear layers and 1x1 convolutions: normal weights of deviation 0.02, zero bias. Extractors stay as they are."""
    for module in network.children():
        if isinstance(module, UnifiedExtractor2d):
            continue
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        init_linear(module)
