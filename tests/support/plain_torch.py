"""The modes of the formula in plain PyTorch, and tensors for them that are exact in a half precision."""

import torch
import torch.nn.functional as F

from tests.support import oracles

SIZE, KERNEL, UPSAMPLE = (9, 8), {"kernel_size": (3, 3), "padding": 1}, (3, 2)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def columns(x):
    return F.unfold(x, **KERNEL).unflatten(1, (x.shape[1], -1)).unflatten(-1, x.shape[2:])


def shared(dynamic_kernel, channels):
    return dynamic_kernel.repeat_interleave(channels // dynamic_kernel.shape[1], dim=1)


def plain_generated(x, dynamic_kernel, bias):
    return (shared(dynamic_kernel, x.shape[1]) * columns(x)).sum(2) + bias[:, None, None]


def plain_both(x, static_kernel, dynamic_kernel):
    return (static_kernel.flatten(1)[..., None, None] * shared(dynamic_kernel, x.shape[1]) * columns(x)).sum(2)


def plain_convolution(x, static_kernel, bias):
    return F.conv2d(x, static_kernel, bias, padding=1, groups=x.shape[1] // static_kernel.shape[1])


def plain_add(x, static_kernel, dynamic_kernel):
    return F.conv2d(x, static_kernel, padding=1) + (shared(dynamic_kernel, x.shape[1]) * columns(x)).sum(2)


def plain_residual(x, static_kernel, dynamic_kernel):
    weight = 1 + shared(dynamic_kernel, x.shape[1])
    return torch.einsum("ock,bckhw->bohw", static_kernel.flatten(2), weight * columns(x))


def plain_fold(x, dynamic_kernel):
    groups, taps, channels = dynamic_kernel.shape[1], dynamic_kernel.shape[2], x.shape[1]
    windows = columns(x).flatten(3).reshape(len(x), groups, channels // groups, taps, -1)
    outputs = torch.einsum("bgikp,bgckp->bgcip", dynamic_kernel.flatten(4), windows)
    return F.fold(outputs.flatten(1, 3), x.shape[2:], **KERNEL)


def plain_deformable(x, static_kernel, dynamic_kernel, offsets):
    read = oracles.unfold(x, offsets=offsets, **KERNEL)
    return torch.einsum("ock,bckhw->bohw", static_kernel.flatten(2), shared(dynamic_kernel, x.shape[1]) * read)


def plain_terms(x, static_kernel, dynamic_kernel):
    terms = zip(static_kernel, dynamic_kernel.unbind(1), strict=True)
    groups = x.shape[1] // static_kernel.shape[2]
    return sum(F.conv2d(x, kernel, padding=1, groups=groups) * shared(gate[:, :, 0], len(kernel)) for kernel, gate in terms)


def plain_terms_of_taps(x, static_kernel, dynamic_kernel):
    terms = zip(static_kernel, dynamic_kernel.unbind(1), strict=True)
    return sum(plain_both(x, kernel, dynamic) for kernel, dynamic in terms)


def plain_decoupled(x, dynamic_kernel, channel_kernel):
    return (shared(dynamic_kernel, x.shape[1]) * channel_kernel[..., None, None] * columns(x)).sum(2)


def plain_upsampled(x, dynamic_kernel):
    """CARAFE's reassembly: output pixel (Y, X) sums the window around pixel (Y // sy, X // sx)."""
    windows = columns(x).repeat_interleave(UPSAMPLE[0], 3).repeat_interleave(UPSAMPLE[1], 4)
    return (shared(dynamic_kernel, x.shape[1]) * windows).sum(2)


MODES = {
    "generated": (plain_generated, {"dynamic_kernel": (2, 2, 9, *SIZE), "bias": (8,)}, {}),
    "generated per image": (plain_generated, {"dynamic_kernel": (2, 8, 9, 1, 1), "bias": (8,)}, {}),
    "both": (plain_both, {"static_kernel": (8, 1, 3, 3), "dynamic_kernel": (2, 2, 9, *SIZE)}, {}),
    "dense": (plain_convolution, {"static_kernel": (6, 8, 3, 3), "bias": (6,)}, {}),
    "depthwise": (plain_convolution, {"static_kernel": (8, 1, 3, 3), "bias": (8,)}, {}),
    "add": (plain_add, {"static_kernel": (8, 8, 3, 3), "dynamic_kernel": (2, 2, 9, *SIZE)}, {"combine": "add"}),
    "residual": (
        plain_residual,
        {"static_kernel": (6, 8, 3, 3), "dynamic_kernel": (2, 2, 9, *SIZE)},
        {"combine": "residual"},
    ),
    "terms": (plain_terms, {"static_kernel": (3, 8, 1, 3, 3), "dynamic_kernel": (2, 3, 2, 1, *SIZE)}, {}),
    "terms, a value a tap": (
        plain_terms_of_taps,
        {"static_kernel": (2, 8, 1, 3, 3), "dynamic_kernel": (2, 2, 2, 9, *SIZE)},
        {},
    ),
    "terms per image": (plain_terms, {"static_kernel": (3, 6, 8, 3, 3), "dynamic_kernel": (2, 3, 1, 1, 1, 1)}, {}),
    "channel kernel": (plain_decoupled, {"dynamic_kernel": (2, 2, 9, *SIZE), "channel_kernel": (2, 8, 9)}, {}),
    "upsample": (plain_upsampled, {"x": (2, 8, 3, 4), "dynamic_kernel": (2, 2, 9, *SIZE)}, {"upsample": UPSAMPLE}),
    "fold": (plain_fold, {"dynamic_kernel": (2, 2, 9, 9, *SIZE)}, {"aggregation": "fold"}),
    "deformable": (
        plain_deformable,
        {"static_kernel": (6, 8, 3, 3), "dynamic_kernel": (2, 2, 9, *SIZE), "offsets": (2, 2, 9, 2, *SIZE)},
        {},
    ),
}


def tensors_of(mode, dtype):
    """Tensors exact in `dtype`, in `dtype` and in float64, so that both computations see the same numbers."""
    shapes = {"x": (2, 8, *SIZE)} | MODES[mode][1]
    low = {name: normal(*shape, seed=seed).to(dtype) for seed, (name, shape) in enumerate(shapes.items())}
    return low, {name: tensor.double() for name, tensor in low.items()}
