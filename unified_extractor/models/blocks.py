"""The few blocks that families share. Maps are ``[B, C, H, W]``."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from unified_extractor.layers.extractor import UnifiedExtractor2d


class Residual(nn.Sequential):
    """``x + f(x)``, f being named modules in a row; stochastic depth drops f(x) of whole images with probability ``drop_path``."""

    def __init__(self, branch: dict[str, nn.Module], drop_path: float = 0.0) -> None:
        super().__init__(OrderedDict(branch | dropping(drop_path)))

    def forward(self, input: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same."""
        return input + super().forward(input)


class LayerScale(nn.Module):
    """One learned factor a channel."""

    def __init__(self, channels: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same."""
        return x * self.gamma[:, None, None]


def dropping(drop_path: float) -> dict[str, nn.Module]:
    """Stochastic depth (Huang et al. 2016) under its name, if it would ever drop anything."""
    if not drop_path:
        return {}
    from torchvision.ops import StochasticDepth  # here: torchvision takes a second to import

    return {"drop_path": StochasticDepth(drop_path, "row")}


def pointwise_mlp(channels: int, ratio: float, *, output_bias: bool = True) -> nn.Sequential:
    """Every pixel alone: to ``ratio`` times the channels, GELU, and back."""
    hidden = max(1, round(channels * ratio))
    steps = {"fc1": nn.Conv2d(channels, hidden, 1), "act": nn.GELU(), "fc2": nn.Conv2d(hidden, channels, 1, bias=output_bias)}
    return nn.Sequential(OrderedDict(steps))


def convolution_norm(
    in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, *, activate: bool = True
) -> nn.Sequential:
    """Convolution, batch norm and, if asked for, ReLU."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
    return nn.Sequential(convolution, *batch_norm(out_channels, activate=activate))


def batch_norm(channels: int, *, activate: bool = True) -> list[nn.Module]:
    """Batch norm and, if asked for, ReLU."""
    return [nn.BatchNorm2d(channels), *([nn.ReLU(inplace=True)] if activate else [])]


def init_linear(network: nn.Module) -> None:
    """Linear layers and 1x1 convolutions start as normal numbers of deviation 0.02 and zero bias; extractors keep their own start."""
    for module in network.children():
        if isinstance(module, UnifiedExtractor2d):
            continue
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        init_linear(module)
