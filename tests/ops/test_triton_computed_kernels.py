"""Kernels computed in registers by the Triton backend, on a GPU or else in Triton's interpreter, which is slow: everything is tiny here."""

from functools import partial

import pytest
import torch
from torch.library import opcheck

import unified_extractor as ux
from tests.support.attention_calls import ATTENTION_LEAVES, attention_call, extract_attention, in_steps
from tests.support.comparing import assert_same, values_and_gradients
from tests.support.generators import extract_linear, in_two_steps, random_generating_call, with_generator
from tests.support.made_calls import made_call
from tests.support.random_calls import random_call, relayout
from tests.support.triton_runs import STATIC_OPCHECKS, is_short, on_device
from unified_extractor.ops import checks
from unified_extractor.ops.call import Call
from unified_extractor.ops.custom_ops import flattened

if reason := ux.backends()["triton"]:
    pytest.skip(f"Triton does not run here: {reason}", allow_module_level=True)
from unified_extractor.ops.backends.triton import launch
from unified_extractor.ops.backends.triton.plan import computes_backward, computes_forward, pays_on_chip

HALVES = {"channels": 8, "kernels": 4, "kernel_size": 3, "size": (3, 4), "batch": 2, "depth": 3}
CASES = {
    "eight taps and one": HALVES,
    "fewer than eight taps": HALVES | {"kernel_size": 2},
    "sixteen taps": HALVES | {"kernel_size": 4, "padding": 2, "batch": 1},
    "a deep feature": HALVES | {"depth": 20, "batch": 1},
    "channels that fill no tile": HALVES | {"channels": 15, "kernels": 5, "batch": 1},
    "one group, several tiles of positions": HALVES | {"channels": 16, "kernels": 1, "size": (7, 6), "batch": 1},
    "stride 2, dilation 2": HALVES | {"stride": 2, "dilation": 2, "padding": 2, "size": (5, 4)},
    "offsets": HALVES | {"offset_groups": 2, "batch": 1},
    "depthwise": HALVES | {"static": (8, 1), "batch": 1},
    "residual": HALVES | {"static": (8, 1), "combine": "residual", "batch": 1},
}


def call_of(case, normalization="none", dtype=torch.float64, *, channels_last=False, **options):
    """Return the arguments of `extract_linear` for a case."""
    made = dict(CASES[case])
    depth = made.pop("depth")
    call = with_generator(made_call(**made, dtype=dtype), depth=depth, normalization=normalization, scale=0.7, **options)
    if channels_last:
        call |= {name: relayout(call[name], "channels_last") for name in ("x", "feature")}
    return call


def recomputed(**call):
    return extract_linear(**call, backend="triton", kernel_memory="recompute").cpu()


def ours(call, seed=0):
    return {name: value.cpu() for name, value in values_and_gradients(recomputed, on_device(call), seed).items()}


def as_call(call):
    """Return the call that the backend gets from these arguments."""
    names = ("kernel_size", "stride", "padding", "dilation")
    window = checks.geometry(call["x"], *(call.get(name, 1) for name in names))
    kernel = ux.LinearKernel(*(call[name] for name in ("feature", "head_weight", "head_bias", "scale", "normalization")))
    options = (call.get("aggregation", "gather"), call.get("combine", "multiply"))
    return Call(call["x"], call.get("static_kernel"), kernel, call.get("offsets"), None, window, *options)


@pytest.mark.sampled(9)
@pytest.mark.parametrize("channels_last", [True, False], ids=["channels_last", "contiguous"])
@pytest.mark.parametrize("normalization", ["none", "softmax", "sigmoid"])
@pytest.mark.parametrize("case", CASES)
def test_a_kernel_computed_in_registers_equals_the_reference(case, normalization, channels_last, poisoned_device_memory):
    call = call_of(case, normalization, channels_last=channels_last)
    assert computes_forward(as_call(call))
    plain = case not in ("offsets", "depthwise", "residual") and normalization != "softmax"
    assert computes_backward(as_call(call)) == plain
    assert_same(ours(call), values_and_gradients(in_two_steps, call))


@pytest.mark.sampled(5)
@pytest.mark.parametrize("seed", [seed for seed in range(20_000, 20_060) if is_short(random_call(seed))])
def test_random_calls_equal_the_reference(seed, poisoned_device_memory):
    """A kernel that does not fit into registers is stored first, in either pass."""
    call = random_generating_call(seed, random_call(seed))
    if call is not None:
        assert_same(ours(call, seed), values_and_gradients(in_two_steps, call, seed))


@pytest.mark.parametrize("wanted", ["x", "feature", "head_weight", "head_bias"])
def test_each_gradient_asked_for_by_itself_equals_that_of_all(wanted):
    call = call_of("eight taps and one", "sigmoid")
    expected = values_and_gradients(in_two_steps, call)[wanted]
    there = on_device(call)
    leaf = there[wanted] = there[wanted].requires_grad_()
    y = recomputed(**there)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(torch.autograd.grad(y, leaf, cotangent)[0].cpu(), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_precise_as_in_two_steps(dtype):
    call = call_of("a deep feature", dtype=dtype, channels_last=True)
    double = {name: t.double() if isinstance(t, torch.Tensor) else t for name, t in call.items()}
    exact = values_and_gradients(in_two_steps, double)
    plain = values_and_gradients(partial(in_two_steps, backend="eager"), call)
    for name, found in ours(call).items():
        assert found.dtype == dtype
        wrong, allowed = ((results - exact[name]).square().mean().sqrt() for results in (found, plain[name]))
        assert wrong <= 2 * allowed, f"{name}: error {wrong:.3g}, in two steps {allowed:.3g}"


def test_partial_sums_of_several_tiles_add_up(monkeypatch):
    """One program has several tiles of several images, another has none."""
    monkeypatch.setattr(launch, "_MOST_MAP_SUMS", 2)
    call = call_of("one group, several tiles of positions") | {}
    call |= {name: torch.cat([call[name], 2 * call[name], -call[name]]) for name in ("x", "feature")}
    assert_same(ours(call), values_and_gradients(in_two_steps, call))


def test_a_kernel_too_large_for_registers_is_stored_first():
    deep = call_of("eight taps and one")
    deep |= {"feature": torch.zeros(2, 65, 3, 4), "head_weight": torch.zeros(36, 65)}
    assert not computes_forward(as_call(deep))
    many = with_generator(made_call(channels=4, kernels=2, kernel_size=5, padding=2), depth=2, normalization="softmax")
    assert not computes_forward(as_call(many))
    assert computes_forward(as_call(many | {"normalization": "none"}))


def test_it_is_chosen_where_measured_to_be_faster():
    for depth, chosen in ((16, True), (32, True), (33, False)):
        call = with_generator(made_call(channels=32, kernels=2, kernel_size=7, padding=3, size=(3, 3)), depth=depth)
        assert pays_on_chip(as_call(call)) == chosen
        call["head_weight"].requires_grad_()
        assert not pays_on_chip(as_call(call))
        with torch.no_grad():
            assert pays_on_chip(as_call(call)) == chosen


@pytest.mark.sampled(2)
@pytest.mark.parametrize("channels_last", [True, False], ids=["channels_last", "contiguous"])
def test_attention_is_the_same_without_its_kernel_being_stored(channels_last):
    call = attention_call("one head", channels=8, size=(3, 4), heads=2)
    if channels_last:
        call |= {name: relayout(call[name], "channels_last") for name in ("value", "query", "key")}

    def attended(**call):
        return extract_attention(**call, backend="triton", kernel_memory="recompute").cpu()

    found = {name: value.cpu() for name, value in values_and_gradients(attended, on_device(call)).items()}
    assert_same(found, values_and_gradients(in_steps, call))
    value, query, key, position = (on_device(call)[name].float().requires_grad_() for name in ATTENTION_LEAVES)
    kernel = ux.AttentionKernel(query, key, 2, position)
    arguments = flattened(Call(value, None, kernel, None, None, checks.geometry(value, 3, 1, "same", 1)))
    gradient, wanted = torch.randn_like(value), [True, False, False, False, True, True, True]
    opcheck(torch.ops.unified_extractor.triton_aggregate_backward, (gradient, wanted, *arguments), test_utils=STATIC_OPCHECKS)
