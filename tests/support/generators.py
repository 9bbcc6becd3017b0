"""Linear kernels for tests: random ones for any call, and the kernel by an independent formula."""

import random

import torch

import unified_extractor as ux
from tests.support.oracles import output_size
from tests.support.random_calls import as_pair, relayout

GEOMETRY = ("kernel_size", "stride", "padding", "dilation", "upsample")
NORMALIZATIONS = ("none", "softmax", "sigmoid")


def with_generator(call, *, depth, normalization="none", scale=1.0, bias=True, groups=None, layout="contiguous", seed=0):
    """Return a call of `extract_linear`: in place of the dynamic kernel of `call`, what one of that shape is computed from."""
    call = dict(call)
    kernel = call.pop("dynamic_kernel")
    x, groups = call["x"], groups or kernel.shape[1]
    out = output_size(tuple(x.shape[2:]), **{name: call.get(name, 1) for name in GEOMETRY})
    rows = groups * torch.Size(kernel.shape[2:-2]).numel()
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(x.dtype)

    return call | {
        "feature": relayout(normal(x.shape[0], depth, *out), layout),
        "head_weight": relayout(normal(rows, depth) / depth**0.5, layout),
        "head_bias": normal(rows) if bias else None,
        "scale": scale,
        "normalization": normalization,
    }


def random_generating_call(seed, call):
    """The same with everything random; None without a dynamic kernel, or with one that no linear map makes: a gate, several terms."""
    kernel = call["dynamic_kernel"]
    kh, kw = as_pair(call["kernel_size"])
    has_terms = call["static_kernel"] is not None and call["static_kernel"].ndim == 5
    if kernel is None or has_terms or kernel.shape[2] != kh * kw:
        return None
    rng = random.Random(seed)
    return with_generator(
        call,
        depth=rng.choice((1, 2, 3, 5, 17, 40)),
        normalization=rng.choice(NORMALIZATIONS),
        scale=rng.choice((1.0, 0.5, -1.5)),
        bias=rng.random() < 0.7,
        layout=rng.choice(("contiguous", "channels_last", "sliced", "transposed")),
        seed=seed,
    )


def kernel_of(feature, head_weight, head_bias, scale, normalization, kernel_size, aggregation):
    """The kernel, one value at a time: ``exp(v_k) / sum_j exp(v_j)`` or ``1 / (1 + exp(-v))`` of ``v = scale * (W f + b)``."""
    kh, kw = as_pair(kernel_size)
    taps = (kh * kw,) * (2 if aggregation == "fold" else 1)
    values = torch.einsum("nr,brhw->bnhw", head_weight, feature)
    if head_bias is not None:
        values = values + head_bias[None, :, None, None]
    values = scale * values.unflatten(1, (-1, *taps))
    if normalization == "softmax":
        powers = (values - values.detach().amax(-3, keepdim=True)).exp()
        return powers / powers.sum(-3, keepdim=True)
    return 1 / (1 + (-values).exp()) if normalization == "sigmoid" else values


def extract_linear(x, feature, head_weight, head_bias=None, scale=1.0, normalization="none", **call):
    """`extract` with a linear kernel of these parts."""
    return ux.extract(x, dynamic_kernel=ux.LinearKernel(feature, head_weight, head_bias, scale, normalization), **call)


def in_two_steps(feature, head_weight, head_bias=None, scale=1.0, normalization="none", backend="reference", **call):
    """`extract` with a kernel computed before: what `extract_linear` must equal."""
    aggregation = call.get("aggregation", "gather")
    kernel = kernel_of(feature, head_weight, head_bias, scale, normalization, call["kernel_size"], aggregation)
    return ux.extract(dynamic_kernel=kernel, backend=backend, **call)
