"""The dynamic kernel of distances, which has no parameters. B batch, C channels, G heads, K taps, Ho, Wo output positions."""

from torch import Tensor, nn

from unified_extractor.ops.dynamic_kernels import normalized, without_outside_taps
from unified_extractor.ops.gaussian import gaussian_exponents
from unified_extractor.ops.geometry import Geometry
from unified_extractor.spec import ExtractorSpec


class GaussianKernel(nn.Module):
    """The dynamic kernel ``exp(-|f_i - f_j|^2 / 2)`` of a pixel i and its taps j, over their sum with a softmax.

    Source: Su et al., Pixel-Adaptive Convolutional Neural Networks (CVPR 2019).
    """

    def __init__(self, heads: int, spec: ExtractorSpec, stride: tuple[int, int]) -> None:
        super().__init__()
        self.heads, self._spec, self.stride = heads, spec, stride

    def forward(self, x: Tensor, offsets: Tensor | None, geometry: Geometry) -> Tensor:
        """Return ``[B, G, K, Ho, Wo]`` of an image ``[B, C, H, W]`` and whole-number offsets of its sampling points."""
        spec = self._spec
        sizes = {"stride": self.stride, "dilation": spec.dilation}
        exponents = gaussian_exponents(x, spec.kernel_size, heads=self.heads, offsets=offsets, **sizes)  # type: ignore[arg-type]
        if spec.dynamic_kernel.normalization == "none":
            return exponents.exp().to(x.dtype)
        return normalized(without_outside_taps(exponents, geometry, offsets, "softmax"), "softmax").to(x.dtype)
