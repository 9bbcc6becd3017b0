"""Computations for second derivatives: kernel and offsets come from the image itself, as in every layer."""

import torch

import unified_extractor as ux
from unified_extractor.ops.functional import similarity


def own_kernel(x, backend):
    """Dynamic kernel and offsets are functions of x."""
    kernel = x.mean(1, keepdim=True)[:, None].expand(1, 1, 9, 5, 5)
    offsets = 0.3 * torch.stack([x[:, 0], x[:, 1]], 1)[:, None, None].expand(1, 1, 9, 2, 5, 5)
    gather = ux.extract(x, kernel_size=3, padding=1, dynamic_kernel=kernel, backend=backend)
    return ux.extract(gather, kernel_size=3, padding=1, dynamic_kernel=kernel, offsets=offsets, backend=backend)


def own_channel_kernel(x, backend):
    """Both dynamic kernels are functions of x, beside a static one."""
    kernel = x.mean(1, keepdim=True)[:, None].expand(1, 1, 9, 5, 5)
    channel_kernel = x.flatten(2)[:, :, :9].sin()
    static_kernel = torch.linspace(-1, 1, 144, dtype=x.dtype).view(16, 1, 3, 3)
    options = {"static_kernel": static_kernel, "channel_kernel": channel_kernel, "combine": "residual", "backend": backend}
    return ux.extract(x, kernel_size=3, padding=1, dynamic_kernel=kernel, **options)


def own_attention(x, backend):
    """Query and key are the same tensor, the products pass through a softmax."""
    return similarity(x.sin(), x, 3, heads=2, backend=backend).softmax(2)


def attention_to_fixed_queries(x, backend):
    return similarity(torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x), x, 3, heads=2, backend=backend).softmax(2)


def attention_to_fixed_keys(x, backend):
    return similarity(x, torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x), 3, heads=2, backend=backend).softmax(2)


COMPUTATIONS = [own_kernel, own_channel_kernel, own_attention, attention_to_fixed_queries, attention_to_fixed_keys]
