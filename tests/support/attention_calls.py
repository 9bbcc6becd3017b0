"""Calls of attention, and the same attention by an independent formula."""

import torch

import unified_extractor as ux
from unified_extractor.ops import checks

ATTENTION_CASES = {
    "one head": {"heads": 1, "kernel_size": 3},
    "heads of several blocks": {"channels": 80, "embedding": 72, "heads": 2, "kernel_size": 3},
    "heads that fill no block": {"channels": 20, "embedding": 12, "heads": 4, "kernel_size": (3, 5)},
    "fewer keys' channels than values'": {"channels": 64, "embedding": 4, "heads": 4, "kernel_size": 3},
    "an even kernel, stride 2": {"heads": 2, "kernel_size": 4, "stride": 2},
    "stride 2 by 3, dilation 2": {"heads": 2, "kernel_size": 3, "stride": (2, 3), "dilation": 2},
    "a window larger than the image": {"heads": 2, "kernel_size": 9, "size": (3, 4)},
    "one pixel": {"heads": 2, "kernel_size": 3, "size": (1, 1)},
    "tiles inside the image": {"heads": 2, "kernel_size": 3, "size": (6, 34), "batch": 1},
    "depthwise": {"heads": 2, "kernel_size": 3, "static": 1},
    "dense": {"channels": 20, "heads": 2, "kernel_size": 3, "static": 20},
    "residual, not normalized": {"heads": 2, "kernel_size": 3, "static": 1, "combine": "residual", "normalization": "none"},
    "residual": {"heads": 2, "kernel_size": 3, "static": 1, "combine": "residual"},
    "add": {"heads": 2, "kernel_size": 3, "static": 1, "combine": "add"},
    "upsample": {"heads": 2, "kernel_size": 3, "upsample": (2, 3), "size": (3, 4)},
}


def attention_call(case, dtype=torch.float64, *, position=True, **options):
    """Keyword arguments of `extract_attention`."""
    made = {"channels": 16, "size": (5, 7), "batch": 2, **ATTENTION_CASES[case], **options}
    channels, batch, size, static = made.pop("channels"), made.pop("batch"), made.pop("size"), made.pop("static", None)
    embedding = made.pop("embedding", channels)
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    value = normal(batch, channels, *size)
    window = checks.geometry(
        value, made["kernel_size"], made.get("stride", 1), "same", made.get("dilation", 1), made.get("upsample", 1)
    )
    return made | {
        "value": value,
        "query": normal(batch, embedding, *window.output) / embedding**0.5,
        "key": normal(batch, embedding, *size),
        "position": normal(made["heads"], *window.kernel_size) if position else None,
        "static_kernel": None if static is None else normal(channels, static, *window.kernel_size),
    }


def extract_attention(value, query, key, kernel_size, heads, position=None, normalization="softmax", **options):
    """`extract` with an attention kernel of these parts, padding "same"."""
    kernel = ux.AttentionKernel(query, key, heads, position, normalization)
    return ux.extract(value, kernel_size=kernel_size, padding="same", dynamic_kernel=kernel, **options)


def in_steps(value, query, key, kernel_size, heads, position=None, normalization="softmax", **options):
    """Every pair of a query and a key by itself: columns of keys, a mask of columns of ones, and `extract` of the reference."""
    geometry = {name: options[name] for name in ("stride", "dilation", "upsample") if name in options} | {"padding": "same"}
    keys = ux.generalized_unfold(key, kernel_size, **geometry).unflatten(1, (heads, -1))
    values = torch.einsum("bgehw,bgekhw->bgkhw", query.unflatten(1, (heads, -1)), keys)
    if position is not None:
        values = values + position.flatten(1)[None, :, :, None, None]
    if normalization == "softmax":
        inside = ux.generalized_unfold(torch.ones_like(key[:, :1]), kernel_size, **geometry) > 0
        values = values.masked_fill(~inside, -torch.inf)
        powers = (values - values.detach().amax(2, keepdim=True)).exp()
        kernel = powers / powers.sum(2, keepdim=True)
    else:
        kernel = values.sigmoid() if normalization == "sigmoid" else values
    return ux.extract(value, kernel_size=kernel_size, dynamic_kernel=kernel, padding="same", backend="reference", **options)


ATTENTION_LEAVES = ("value", "query", "key", "position")
