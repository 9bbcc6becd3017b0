"""Kernels that the Triton backend computes by chunks of the batch, on a GPU or else in Triton's interpreter: everything is tiny here."""

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
from unified_extractor.ops.backends.triton import Triton, chunks

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
def test_a_kernel_computed_by_chunks_equals_the_reference(
    case, normalization, channels_last, poisoned_device_memory, monkeypatch
):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)  # an image a chunk
    call = call_of(case, normalization, channels_last=channels_last)
    assert_same(ours(call), values_and_gradients(in_two_steps, call))


@pytest.mark.sampled(5)
@pytest.mark.parametrize("seed", [seed for seed in range(20_000, 20_060) if is_short(random_call(seed))])
def test_random_calls_equal_the_reference(seed, poisoned_device_memory):
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


def test_chunks_hold_all_images_once_and_no_more_bytes_than_planned(monkeypatch):
    call = as_call(call_of("one group, several tiles of positions"))
    kernel = call.computed_kernel
    call = call._replace(
        x=call.x.expand(7, -1, -1, -1), dynamic_kernel=kernel._replace(feature=kernel.feature.expand(7, -1, -1, -1))
    )
    bytes_of_an_image = 9 * 7 * 6 * 8
    for most, expected in ((1, [1] * 7), (3 * bytes_of_an_image, [2, 2, 3]), (100 * bytes_of_an_image, [7])):
        monkeypatch.setattr(chunks, "CHUNK_BYTES", most)
        parts = list(chunks.chunks(call))
        assert [part.stop - part.start for part in parts] == expected
        assert [image for part in parts for image in range(part.start, part.stop)] == list(range(7))


def test_several_images_a_chunk_add_up(monkeypatch):
    call = call_of("one group, several tiles of positions") | {}
    call |= {name: torch.cat([call[name], 2 * call[name], -call[name]]) for name in ("x", "feature")}
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 2 * 9 * 7 * 6 * 8)
    assert_same(ours(call), values_and_gradients(in_two_steps, call))


def test_an_empty_batch_has_an_empty_output():
    call = call_of("eight taps and one")
    call |= {name: call[name][:0] for name in ("x", "feature")}
    found = ours(call)
    assert found["x"].shape[0] == found["feature"].shape[0] == 0
    assert not found["head_weight"].any()


def test_only_a_pass_without_gradients_is_chunked_unasked():
    """Training would compute the kernel twice, which nobody has measured to be faster than storing it."""
    call = call_of("eight taps and one")
    recomputes = Triton().recomputes
    assert recomputes(as_call(call), demanded=False)
    call["head_weight"].requires_grad_()
    assert not recomputes(as_call(call), demanded=False)
    assert recomputes(as_call(call), demanded=True)
    with torch.no_grad():
        assert recomputes(as_call(call), demanded=False)


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
    of_backward = (gradient, *arguments[:7], wanted, *arguments[7:])
    opcheck(torch.ops.unified_extractor.triton_aggregate_backward, of_backward, test_utils=STATIC_OPCHECKS)
