"""Random legal calls of `extract`, one per seed: tiny float64 tensors, every switch of the formula, plenty of borders."""

import random

import torch

from tests.support.oracles import output_size

GROUPS_OF = {n: [g for g in range(1, n + 1) if n % g == 0] for n in (1, 2, 3, 4, 6)}
LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed")


def relayout(x, layout):
    """The same values in another memory layout."""
    if layout == "channels_last" and x.ndim == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        wide = x.new_full((*x.shape[:-1], 2 * x.shape[-1] + 1), torch.nan)
        view = wide[..., 1::2]
        return view.copy_(x)
    if layout == "transposed" and x.ndim > 1:
        return x.transpose(0, 1).contiguous().transpose(0, 1)
    return x


def int_or_pair(rng, values):
    first = rng.choice(values)
    return first if rng.random() < 0.5 else (first, rng.choice(values))


def as_pair(value):
    return (value, value) if isinstance(value, int) else value


def random_geometry(rng):
    """(height, width), kernel_size, stride, padding, dilation with at least one window."""
    while True:
        size = (rng.choice((1, 2, 3, 4, 5, 7)), rng.choice((1, 2, 3, 4, 5, 6)))
        kernel_size = int_or_pair(rng, (1, 2, 3, 3, 4))
        stride = int_or_pair(rng, (1, 1, 2, 3))
        dilation = int_or_pair(rng, (1, 1, 2, 3))
        padding = "same" if rng.random() < 0.2 else int_or_pair(rng, (0, 1, 1, 2, 3))
        if min(output_size(size, kernel_size, stride, padding, dilation)) > 0:
            return size, kernel_size, stride, padding, dilation


def random_offsets(rng, generator, shape, size):
    """Fractions, exact integers, zeros and positions beyond every border, mixed tap by tap."""
    offsets = 1.5 * torch.randn(shape, generator=generator, dtype=torch.float64)
    kind = torch.rand(shape, generator=generator)
    whole = rng.choice((0.0, 0.3, 1.0))
    offsets = torch.where(kind < whole, offsets.round(), offsets)
    if rng.random() < 0.5:
        offsets = torch.where(kind > 0.8, offsets * (max(size) + 3), offsets)
    if rng.random() < 0.3:
        offsets = torch.where((kind > 0.5) & (kind < 0.7), torch.zeros_like(offsets), offsets)
    return offsets


def random_call(seed):
    """Keyword arguments of `extract` (x and kernel_size among them), legal, the output not empty in space."""
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    size, kernel_size, stride, padding, dilation = random_geometry(rng)
    kh, kw = as_pair(kernel_size)
    taps = kh * kw
    batch, channels = rng.choice((0, 1, 1, 2, 2, 2)), rng.choice(tuple(GROUPS_OF))
    aggregation = rng.choice(("gather", "gather", "fold"))
    upsample, rng_fine = 1, random.Random(f"upsample {seed}")
    if aggregation == "gather" and as_pair(stride) == (1, 1) and rng_fine.random() < 0.25:
        upsample = int_or_pair(rng_fine, (1, 2, 2, 3))
    out = output_size(size, kernel_size, stride, padding, dilation, upsample)
    combine = "multiply" if aggregation == "fold" else rng.choice(("multiply", "multiply", "add", "residual"))
    both = combine != "multiply"

    def shared_axes():
        return tuple(1 if rng.random() < 0.2 else n for n in out)

    statics = ("dense", "grouped", "depthwise", "multiplier") if aggregation == "gather" else ("depthwise",)
    static = rng.choice(statics if both else (*statics, "none"))
    groups = {"dense": 1, "grouped": rng.choice(GROUPS_OF[channels]), "none": channels}.get(static, channels)
    multiple = {"depthwise": 1, "none": 1}.get(static, rng.choice((1, 2, 3)))
    outputs = channels if combine == "add" or multiple == 1 else groups * multiple
    static_kernel = None if static == "none" else normal(outputs, channels // groups, kh, kw)

    dynamic_kernel = None
    if both or rng.random() < 0.65:
        axes = (taps,) if aggregation == "gather" else (taps, taps)
        if aggregation == "gather" and random.Random(f"gate {seed}").random() < 0.15:
            axes = (1,)
        dynamic_kernel = normal(batch, rng.choice(GROUPS_OF[channels]), *axes, *shared_axes())
    rng_terms = random.Random(f"terms {seed}")
    if static != "none" and dynamic_kernel is not None and aggregation == "gather" and rng_terms.random() < 0.25:
        terms, combine = rng_terms.choice((1, 2, 3)), "multiply"
        static_kernel = normal(terms, *static_kernel.shape)
        dynamic_kernel = normal(batch, terms, *dynamic_kernel.shape[1:])
    offsets = None
    if rng.random() < 0.6:
        offsets = random_offsets(rng, generator, (batch, rng.choice(GROUPS_OF[channels]), taps, 2, *shared_axes()), size)

    call = {
        "x": normal(batch, channels, *size),
        "static_kernel": static_kernel,
        "dynamic_kernel": dynamic_kernel,
        "offsets": offsets,
        "bias": normal(outputs) if rng.random() < 0.5 else None,
    }
    rng_channel = random.Random(f"channel kernel {seed}")
    if rng_channel.random() < 0.2:
        call["channel_kernel"] = normal(batch, channels, rng_channel.choice((1, taps, taps)))
    if rng.random() < 0.5:
        call = {name: None if t is None else relayout(t, rng.choice(LAYOUTS)) for name, t in call.items()}
    return call | {
        "kernel_size": kernel_size,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "combine": combine,
        "aggregation": aggregation,
        "upsample": upsample,
    }
