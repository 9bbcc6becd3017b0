"""The channel kernel of a layer: a dynamic kernel for each channel and image. B batch, C channels, K taps."""

import torch
from torch import Tensor, nn

from unified_extractor.layers.generators import Feature, GeneratedKernel
from unified_extractor.spec import ExtractorSpec


class ChannelKernel(nn.Module):
    """A kernel that is generated for each channel and image, normalized, and multiplied by learned numbers where the spec says so.

    Source: Zhou et al., Decoupled Dynamic Filter Networks (CVPR 2021).
    """

    def __init__(self, channels: int, inputs: int, spec: ExtractorSpec) -> None:
        super().__init__()
        own, once = spec.channel_kernel.as_dynamic_kernel(spec.kernel_size), (1, 1)
        self.feature = Feature(inputs, own, once)
        try:
            self.kernel = GeneratedKernel(self.feature, channels, 1, own, once)
        except ValueError as error:
            raise ValueError(f"channel_kernel.{error}") from error
        self.gain: nn.Parameter | None = None
        if spec.channel_kernel.learned_gain:
            self.gain = nn.Parameter(torch.randn(channels * spec.taps) * (2 / spec.taps) ** 0.5)  # as published

    def forward(self, x: Tensor) -> Tensor:
        """Return the kernel ``[B, C, K]`` of an image ``[B, inputs, H, W]``."""
        kernel: Tensor = self.kernel(self.feature(x))[..., 0, 0]
        return kernel if self.gain is None else kernel * self.gain.view(kernel.shape[1:])
