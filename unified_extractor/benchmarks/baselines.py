"""Baselines in torch's own operations: what a user would run instead. Written from the papers' equations.

B batch, C channels, G kernel groups, K taps, Ho, Wo output positions. All have padding kernel_size // 2 and dilation 1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unified_extractor.layers import UnifiedExtractor2d


def unfold_multiply_sum(x: Tensor, dynamic_kernel: Tensor, kernel_size: int, stride: int = 1) -> Tensor:
    """Return an involution: columns ``[B, G, C/G, K, Ho, Wo]`` times the kernel ``[B, G, K, Ho, Wo]``, summed over taps."""
    batch, groups, taps, *output = dynamic_kernel.shape
    columns = F.unfold(x, kernel_size, 1, kernel_size // 2, stride).view(batch, groups, -1, taps, *output)
    return (columns * dynamic_kernel[:, :, None]).sum(3).flatten(1, 2)


def grid_sample_multiply_sum(x: Tensor, dynamic_kernel: Tensor, offsets: Tensor, kernel_size: int) -> Tensor:
    """Return DCNv3 or DCNv4: the taps of all groups sampled by one ``F.grid_sample``, then weighted and summed. Stride 1."""
    return (_grid_sampled(x, offsets, kernel_size) * dynamic_kernel[:, :, None]).sum(3).flatten(1, 2)


def grid_sample_matmul(x: Tensor, static_kernel: Tensor, offsets: Tensor, mask: Tensor, kernel_size: int) -> Tensor:
    """Return DCNv2 with one convolution group: sampled values times the mask ``[B, G, K, Ho, Wo]``, in one matrix product.
    Stride 1."""
    columns = (_grid_sampled(x, offsets, kernel_size) * mask[:, :, None]).flatten(4).flatten(1, 3)  # [B, C*K, P]
    return (static_kernel.flatten(1) @ columns).unflatten(2, x.shape[-2:])


def gated_convolutions(x: Tensor, static_kernel: Tensor, gates: Tensor) -> Tensor:
    """Return the sum of M depthwise convolutions by ``[M, C, 1, kh, kw]``, each times its gate ``[B, M, 1, 1, Ho, Wo]``. Stride 1."""
    channels, padding = x.shape[1], static_kernel.shape[-1] // 2
    terms = zip(static_kernel, gates.unbind(1), strict=True)
    outputs = [F.conv2d(x, kernel, None, 1, padding, 1, channels) * gate[:, :, 0] for kernel, gate in terms]
    return torch.stack(outputs).sum(0)


def unfold_reassembled(x: Tensor, logits: Tensor, kernel_size: int, factor: int) -> Tensor:
    """Return CARAFE's reassembly as common code has it: the kernels ``[B, K*s*s, H, W]`` are shuffled to the pixels of the output, and the
    image is repeated to its size before the windows are unfolded."""
    kernel = F.pixel_shuffle(logits, factor).softmax(1)
    repeated = F.interpolate(x, scale_factor=factor, mode="nearest")
    windows = F.unfold(repeated, kernel_size, factor, kernel_size // 2 * factor)
    return torch.einsum("bkyx,bckyx->bcyx", kernel, windows.view(*x.shape[:2], -1, *repeated.shape[2:]))


def unfold_once_reassembled(x: Tensor, logits: Tensor, kernel_size: int, factor: int) -> Tensor:
    """Return the same, with the windows unfolded once for all outputs of a pixel."""
    kernel = logits.unflatten(1, (kernel_size**2, factor**2)).softmax(1)
    windows = F.unfold(x, kernel_size, padding=kernel_size // 2).view(*x.shape[:2], -1, *x.shape[2:])
    return F.pixel_shuffle(torch.einsum("bksyx,bckyx->bcsyx", kernel, windows).flatten(1, 2), factor)


def grid_sample_upsampled(x: Tensor, values: Tensor, groups: int, factor: int) -> Tensor:
    """Return DySample by one ``F.grid_sample`` of the groups' channels, from offsets ``[B, groups*2*s*s, H, W]``, (y, x)."""
    height, width = x.shape[2:]
    offsets = 0.25 * F.pixel_shuffle(values, factor).unflatten(1, (groups, 2)).flatten(0, 1)
    rows, columns = ((torch.arange(n * factor, device=x.device, dtype=x.dtype) + 0.5) / factor for n in (height, width))
    places = torch.stack([2 * (columns + offsets[:, 1]) / width - 1, 2 * (rows[:, None] + offsets[:, 0]) / height - 1], -1)
    sampled = F.grid_sample(
        x.reshape(-1, x.shape[1] // groups, height, width), places, padding_mode="border", align_corners=False
    )
    return sampled.view(x.shape[0], -1, height * factor, width * factor)


def _grid_sampled(x: Tensor, offsets: Tensor, kernel_size: int) -> Tensor:
    """Return sampled values ``[B, G, C/G, K, Ho, Wo]``. Half precision would misplace positions by tenths of a pixel, so at
    least float32 is used."""
    batch, groups, taps, _, height, width = offsets.shape
    precise, device = torch.promote_types(x.dtype, torch.float32), x.device
    rows, columns = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    reach = torch.arange(kernel_size, device=device) - kernel_size // 2
    grid = torch.stack(torch.meshgrid(reach, reach, indexing="ij")).flatten(1).T
    positions = torch.stack([rows, columns]) + grid[:, :, None, None] + offsets.to(precise)  # [B, G, K, 2, Ho, Wo]
    x_position = (2 * positions[:, :, :, 1] + 1) / width - 1
    y_position = (2 * positions[:, :, :, 0] + 1) / height - 1
    normalized = torch.stack([x_position, y_position], -1).flatten(0, 1).flatten(1, 2)
    read = F.grid_sample(x.reshape(batch * groups, -1, height, width).to(precise), normalized, align_corners=False)
    return read.view(batch, groups, -1, taps, height, width).to(x.dtype)


def unfold_matmul_fold(x: Tensor, dynamic_kernel: Tensor, kernel_size: int, stride: int) -> Tensor:
    """Return outlook attention: the kernel ``[K, K]`` of each window times its values ``[K, C/G]``, then ``F.fold``."""
    batch, groups, taps, _, *output = dynamic_kernel.shape
    geometry = {"kernel_size": kernel_size, "padding": kernel_size // 2, "stride": stride}
    values = F.unfold(x, **geometry).view(batch, groups, -1, taps, output[0] * output[1]).permute(0, 1, 4, 3, 2)
    weighted = dynamic_kernel.flatten(-2).permute(0, 1, 4, 2, 3) @ values
    return F.fold(weighted.permute(0, 1, 4, 3, 2).flatten(1, 3), x.shape[-2:], **geometry)


class UnfoldInvolution(nn.Module):
    """An involution layer whose operator is :func:`unfold_multiply_sum`; generator and parameters are the layer's own."""

    def __init__(self, layer: UnifiedExtractor2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output ``[B, C, Ho, Wo]`` for an image ``[B, C, H, W]``."""
        _, dynamic_kernel = self.layer.generate(x)
        assert dynamic_kernel is not None
        return unfold_multiply_sum(x, dynamic_kernel, self.layer.spec.kernel_size, self.layer.stride)  # type: ignore[arg-type]


def with_unfold(network: nn.Module) -> nn.Module:
    """Return the network with every involution replaced by its unfold formulation, in place."""
    for name, child in network.named_children():
        if isinstance(child, UnifiedExtractor2d):
            setattr(network, name, UnfoldInvolution(child))
        else:
            with_unfold(child)
    return network
