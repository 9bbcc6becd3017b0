"""Attention whose kernel is recomputed equals attention in steps: values, every gradient, in every backend."""

import re
from functools import partial

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

import unified_extractor as ux
from tests.support import oracles
from tests.support.attention_calls import ATTENTION_CASES, ATTENTION_LEAVES, attention_call, extract_attention, in_steps
from tests.support.comparing import assert_same, values_and_gradients
from tests.support.oracles import output_size
from unified_extractor.analysis import saved_bytes
from unified_extractor.ops import checks
from unified_extractor.ops.call import Call
from unified_extractor.ops.custom_ops import flattened

recomputed = partial(extract_attention, backend="compiled", kernel_memory="recompute")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("normalization", ["none", "softmax", "sigmoid"])
@pytest.mark.parametrize("case", ATTENTION_CASES)
def test_it_equals_attention_in_steps(case, normalization, made, poisoned_memory):
    call = attention_call(case, position=False) if "not normalized" in case else attention_call(case, normalization=normalization)
    assert_same(values_and_gradients(recomputed, call), values_and_gradients(in_steps, call))


@pytest.mark.parametrize("case", ATTENTION_CASES)
def test_backends_that_store_the_kernel_equal_attention_in_steps(case, backend):
    call = attention_call(case, position=case != "one head")
    stored = partial(extract_attention, backend=backend, kernel_memory="store")
    assert_same(values_and_gradients(stored, call), values_and_gradients(in_steps, call))


@pytest.mark.parametrize("case", ["one head", "heads of several blocks", "tiles inside the image"])
def test_single_precision_is_at_most_twice_as_wrong_as_eager(case, made):
    call = attention_call(case, torch.float32)
    double = {name: t.double() if isinstance(t, torch.Tensor) else t for name, t in call.items()}
    exact, ours = values_and_gradients(in_steps, double), values_and_gradients(recomputed, call)
    plain = values_and_gradients(partial(extract_attention, backend="eager"), call)
    for name, expected in exact.items():
        wrong, allowed = ((results[name] - expected).square().mean().sqrt() for results in (ours, plain))
        floor = torch.finfo(torch.float32).eps * expected.square().mean().sqrt()
        assert wrong <= 2 * allowed + floor, f"{name}: error {wrong:.3g}, eager's {allowed:.3g}"


def test_first_and_second_derivatives(made):
    call = attention_call("one head", channels=2, size=(2, 3), batch=1, heads=2)
    leaves = [call.pop(name).requires_grad_() for name in ATTENTION_LEAVES]

    def function(*leaves):
        return recomputed(**call, **dict(zip(ATTENTION_LEAVES, leaves, strict=True)))

    assert gradcheck(function, leaves)
    assert gradgradcheck(function, leaves)


@pytest.mark.parametrize("wanted", ATTENTION_LEAVES)
def test_each_gradient_asked_for_by_itself_equals_that_of_all(wanted, made):
    call = attention_call("heads that fill no block")
    expected = values_and_gradients(in_steps, call)[wanted]
    leaf = call[wanted] = call[wanted].requires_grad_()
    y = recomputed(**call)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(torch.autograd.grad(y, leaf, cotangent)[0], expected)


def test_autograd_keeps_what_the_kernel_is_made_from_and_not_the_kernel(made):
    call = attention_call("one head", torch.float32, kernel_size=7)
    leaves = [call[name].requires_grad_() for name in ATTENTION_LEAVES]
    assert saved_bytes(lambda: recomputed(**call), *leaves) == 0
    assert saved_bytes(lambda: extract_attention(**call, kernel_memory="store"), *leaves) >= 2 * 49 * 5 * 7 * 4


def test_taps_outside_the_image_have_no_weight_however_small_the_others_are(made):
    call = attention_call("one head", channels=4, size=(3, 3))
    call |= {"query": torch.full_like(call["query"], -1e3), "key": torch.ones_like(call["key"]), "position": None}
    assert_same(values_and_gradients(recomputed, call), values_and_gradients(in_steps, call))


def test_nothing_is_kept_on_demand_however_few_channels_share_a_kernel():
    pytest.importorskip("numba")
    call = attention_call("one head", torch.float32, channels=4, heads=4)
    leaves = [call[name].requires_grad_() for name in ATTENTION_LEAVES]
    assert saved_bytes(lambda: extract_attention(**call, kernel_memory="recompute"), *leaves) == 0


def test_multiply_adds_are_those_of_both_steps(made):
    call = attention_call("heads of several blocks", torch.float32)
    counts = []
    for way in ("recompute", "store"):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            extract_attention(**call, backend="compiled", kernel_memory=way)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == 2 * 2 * 9 * (80 + 72) * 35


def test_the_operator_passes_torchs_own_checks(made):
    from unified_extractor.ops.backends.compiled.launch import OPERATORS

    call = attention_call("one head", torch.float32)
    value, query, key, position = (call[name].requires_grad_() for name in ATTENTION_LEAVES)
    kernel = ux.AttentionKernel(query, key, 1, position)
    opcheck(OPERATORS.aggregate, flattened(Call(value, None, kernel, None, None, checks.geometry(value, 3, 1, "same", 1))))


@pytest.mark.parametrize("has_offsets", [False, True])
@pytest.mark.parametrize("padding", [0, (2, 1)])
def test_any_padding_and_offsets_equal_products_and_a_kernel(padding, has_offsets, backend):
    """The keys are sampled where the values are; a softmax leaves out taps outside the image."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    out = output_size((6, 5), 3, 2, padding, 1)
    tensors = {"value": normal(2, 4, 6, 5), "key": normal(2, 6, 6, 5), "query": normal(2, 6, *out), "position": normal(2, 3, 3)}
    if has_offsets:
        tensors["offsets"] = 2 * normal(2, 1, 9, 2, *out)
    geometry = {"kernel_size": 3, "stride": 2, "padding": padding}

    def ours(value, query, key, position, offsets=None):
        kernel = ux.AttentionKernel(query, key, 2, position)
        return ux.extract(value, dynamic_kernel=kernel, offsets=offsets, backend=backend, **geometry)

    def expected(value, query, key, position, offsets=None):
        keys = oracles.unfold(key, offsets=offsets, **geometry).unflatten(1, (2, -1))
        values = torch.einsum("bgehw,bgekhw->bgkhw", query.unflatten(1, (2, -1)), keys)
        values = values + position.flatten(1)[None, :, :, None, None]
        inside = oracles.unfold(torch.ones_like(key[:, :1]), offsets=offsets, **geometry) > 0
        kernel = values.masked_fill(~inside, torch.finfo(values.dtype).min).softmax(2)
        return ux.extract(value, dynamic_kernel=kernel, offsets=offsets, backend="reference", **geometry)

    assert_same(values_and_gradients(ours, tensors), values_and_gradients(expected, tensors))


@pytest.mark.parametrize(
    ("changed", "patterns"),
    [
        ({"query": torch.zeros(2, 4, 5, 6)}, ("query", "5, 7", "5, 6")),
        ({"key": torch.zeros(2, 16, 4, 7)}, ("key", "5, 7", "4, 7")),
        ({"key": torch.zeros(2, 16, 5, 7).double()}, ("key", "float64")),
        ({"heads": 3}, ("heads", "3", "16")),
        ({"heads": 0}, ("heads", "0")),
        ({"heads": True}, ("heads", "True")),
        ({"position": torch.zeros(2, 9)}, ("position", "2, 9")),
        ({"position": torch.zeros(1, 3, 3)}, ("position", "2, 3, 3", "1, 3, 3")),
        ({"normalization": "group_norm"}, ("normalization", "group_norm")),
        ({"kernel_memory": 1.5}, ("kernel_memory", "1.5")),
        ({"kernel_memory": "recompute", "backend": "reference"}, ("kernel_memory", "reference", "compiled")),
    ],
)
def test_wrong_calls_are_refused_by_name_and_value(changed, patterns):
    call = attention_call("one head", torch.float32, heads=2) | changed
    with pytest.raises((ValueError, TypeError)) as error:
        extract_attention(**call)
    for pattern in patterns:
        assert re.search(pattern, str(error.value)), f"{pattern!r} is not in {error.value}"


@pytest.mark.parametrize(
    ("position", "error", "message"),
    [
        ([1], TypeError, "position must be"),
        (torch.zeros(2, 3, 3, device="meta"), ValueError, "position must be on the device of x, cpu, got meta"),
    ],
)
def test_a_position_is_a_tensor_of_the_same_device(position, error, message):
    x = torch.zeros(1, 4, 5, 5, dtype=torch.bfloat16)
    with pytest.raises(error, match=message):
        ux.extract(x, kernel_size=3, padding=1, dynamic_kernel=ux.AttentionKernel(x, x, 2, position))


def test_autocast_casts_all_parts_but_the_position(backend):
    call = attention_call("depthwise", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = extract_attention(**call, backend=backend)
    lowered = {name: call[name].bfloat16() for name in ("value", "query", "key", "static_kernel")}
    expected = extract_attention(**call | lowered, backend=backend)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)
