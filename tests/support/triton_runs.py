"""Calls on the device of the Triton tests (a GPU, or the CPU for Triton's interpreter), and their results there and by the reference."""

import torch

from tests.support.comparing import values_and_gradients
from tests.support.made_calls import extract_or_unfold
from tests.support.oracles import output_size
from tests.support.random_calls import as_pair
from unified_extractor.ops.functional import similarity

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"


def on_device(call):
    """Return the same call on the device under test, every tensor in the layout that it had."""

    def there(t):
        memory = t.new_empty(0).set_(t.untyped_storage()).to(DEVICE)
        return memory.as_strided(t.shape, t.stride(), t.storage_offset())

    return {name: there(t) if isinstance(t, torch.Tensor) else t for name, t in call.items()}


def run(call, function=extract_or_unfold, seed=0):
    """Return output and gradients of the backend; ``function``: see :func:`extract_or_unfold`."""
    results = values_and_gradients(lambda **call: function("triton", **call).cpu(), on_device(call), seed)
    return {name: result.cpu() for name, result in results.items()}


def reference(call, function=extract_or_unfold, seed=0):
    """Return output and gradients of the reference; ``function``: see :func:`extract_or_unfold`."""
    return values_and_gradients(lambda **call: function("reference", **call), call, seed)


def is_short(call):
    """Return whether the interpreter gets through the call in a moment."""
    kh, kw = as_pair(call["kernel_size"])
    reads = (kh * kw) ** (2 if call["aggregation"] == "fold" else 1) * (4 if call["offsets"] is not None else 1)
    sub_positions = torch.Size(as_pair(call.get("upsample", 1))).numel()
    return reads * call["x"].shape[:2].numel() * sub_positions <= 60


TENSORS = {
    "gather": {"batch": 2, "channels": 4, "kernels": 2, "offset_groups": 2, "kernel_size": (1, 2)},
    "fixed gather": {"batch": 2, "channels": 4, "kernels": 2},
    "dense": {"batch": 2, "channels": 4, "static": (6, 2), "kernels": 1, "kernel_size": (1, 2)},
    "depthwise": {"batch": 2, "channels": 4, "static": (4, 1), "kernels": 2, "kernel_size": (1, 2)},
    "fold": {"batch": 2, "channels": 4, "kernels": 2, "aggregation": "fold", "kernel_size": (1, 2)},
    "offset_groups fold": {
        "batch": 2,
        "channels": 2,
        "kernels": 2,
        "offset_groups": 1,
        "aggregation": "fold",
        "kernel_size": (1, 2),
        "size": (2, 3),
    },
    "unfold": {"batch": 2, "channels": 4, "offset_groups": 2, "aggregation": "unfold", "kernel_size": (2, 1)},
}


def made_similarity(
    channels, heads, size=(3, 4), batch=1, offset_groups=0, shared=False, kernel_size=2, dtype=torch.float64, **options
):
    generator = torch.Generator().manual_seed(channels)
    out = output_size(size, kernel_size, padding="same", **options)
    shapes = {"query": (batch, channels, *out), "key": (batch, channels, *size)}
    if offset_groups:
        shapes["offsets"] = (batch, offset_groups, kernel_size**2, 2, *((1, 1) if shared else out))
    tensors = {name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for name, shape in shapes.items()}
    return tensors | {"kernel_size": kernel_size, "heads": heads} | options


def products(backend, **call):
    return similarity(**call, backend=backend)


STATIC_OPCHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")


def output_and_gradients(gradient, **call):
    """Return the output and all gradients of a call of the backend, given the output's gradient."""
    leaves = {name: t.detach().requires_grad_() for name, t in call.items() if isinstance(t, torch.Tensor)}
    y = extract_or_unfold("triton", **call | leaves)
    return [y.detach(), *torch.autograd.grad(y, list(leaves.values()), gradient)]
