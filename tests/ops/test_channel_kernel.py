"""Channel kernels: a second dynamic kernel, one for each channel and image, whose product with the first is never stored."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import unified_extractor as ux
from tests.support import oracles
from tests.support.comparing import assert_same, values_and_gradients
from tests.support.made_calls import made_call

MANY = {"channels": 8, "size": (16, 16), "kernel_size": 3, "batch": 2, "kernels": 1}


STATICS = {"depthwise": (6, 1), "grouped": (6, 2), "multiplier": (12, 1), "dense": (4, 6)}


@pytest.mark.parametrize("static", STATICS)
@pytest.mark.parametrize("combine", ["multiply", "residual"])
def test_each_kind_of_static_kernel_equals_the_formula(static, combine, backend):
    call = made_call(
        6, (3, 4), (1, 3), batch=2, static=STATICS[static], kernels=3, offset_groups=2, channel_kernel=3, combine=combine
    )
    actual, expected = (
        values_and_gradients(function, call) for function in (lambda **c: ux.extract(**c, backend=backend), oracles.extract)
    )
    assert_same(actual, expected)


@pytest.mark.parametrize("combine", ["multiply", "add", "residual"])
@pytest.mark.parametrize("static", [(8, 1), (8, 8)], ids=["depthwise", "dense"])
def test_their_product_is_never_stored(static, combine, backend):
    """Between the passes and within the forward pass no tensor has a value for every channel, tap and window."""
    call = made_call(**MANY, static=static, channel_kernel=9, combine=combine)
    tensors = {name: t.requires_grad_() for name, t in call.items() if isinstance(t, torch.Tensor)}
    sizes = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.setdefault(t.data_ptr(), t.nbytes) and t, lambda t: t):
        ux.extract(**call, backend=backend)
    product = 9 * tensors["x"].nbytes
    if backend != "reference":
        assert sum(sizes.values()) < product / 3


def test_without_another_it_is_a_dynamic_kernel_of_the_image(backend):
    call = made_call(channels=4, size=(4, 5), kernel_size=(2, 3), batch=2, channel_kernel=6)
    as_dynamic = dict(call)
    as_dynamic["dynamic_kernel"] = as_dynamic.pop("channel_kernel")[..., None, None]
    actual, expected = (values_and_gradients(lambda **c: ux.extract(**c, backend=backend), c) for c in (call, as_dynamic))
    expected["channel_kernel"] = expected.pop("dynamic_kernel")[..., 0, 0]
    assert_same(actual, expected)


def test_a_kernel_of_each_image_runs_as_one_convolution_of_all_images():
    """Torch's counter sees a convolution's products, and no other."""
    call = made_call(channels=4, size=(6, 7), kernel_size=3, batch=2, kernels=2, shared=(0, 1), static=(4, 1))
    with FlopCounterMode(display=False) as counter:
        ux.extract(**call, backend="eager")
    assert counter.get_flop_counts()["Global"] == {torch.ops.aten.convolution: 2 * 2 * 4 * 9 * 42}


@pytest.mark.parametrize("memory", ["auto", "store", "recompute"])
@pytest.mark.parametrize("kind", ["linear", "attention"])
def test_a_computed_kernel_beside_it_is_that_kernel_stored(kind, memory, backend):
    def normal(*shape):
        return torch.randn(shape, dtype=torch.float64)

    call = {"x": normal(2, 4, 4, 5), "channel_kernel": normal(2, 4, 9), "query": normal(2, 4, 4, 5), "key": normal(2, 4, 4, 5)}
    call |= {"feature": normal(2, 3, 4, 5), "weight": normal(18, 3)}
    call = {
        name: t
        for name, t in call.items()
        if name in ("x", "channel_kernel") or (name in ("query", "key")) == (kind == "attention")
    }

    def run(backend, memory):
        def function(x, channel_kernel, **parts):
            kernel = ux.LinearKernel(**parts) if kind == "linear" else ux.AttentionKernel(**parts, heads=2)
            options = {"kernel_size": 3, "padding": 1, "kernel_memory": memory, "backend": backend}
            return ux.extract(x, dynamic_kernel=kernel, channel_kernel=channel_kernel, **options)

        return values_and_gradients(function, call)

    assert_same(run(backend, memory), run("reference", "store"))
