"""Attention whose kernel is made where it is used equals attention in steps: values, every gradient, in every backend."""

import re
from functools import partial

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

import unified_extractor as ux
from tests.ops.test_compiled import poisoned_memory  # noqa: F401  (a fixture)
from tests.support.comparing import assert_same, values_and_gradients
from unified_extractor.analysis import kept_bytes
from unified_extractor.ops import checks
from unified_extractor.ops.custom_ops import numbers
from unified_extractor.ops.functional import attend

CASES = {
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
}


def call_of(case, dtype=torch.float64, *, position=True, **options):
    """Keyword arguments of `attend`."""
    made = {"channels": 16, "size": (5, 7), "batch": 2, **CASES[case], **options}
    channels, batch, size, static = made.pop("channels"), made.pop("batch"), made.pop("size"), made.pop("static", None)
    embedding = made.pop("embedding", channels)
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    value = normal(batch, channels, *size)
    window = checks.geometry(value, made["kernel_size"], made.get("stride", 1), "same", made.get("dilation", 1))
    return made | {
        "value": value,
        "query": normal(batch, embedding, *window.output) / embedding**0.5,
        "key": normal(batch, embedding, *size),
        "position": normal(made["heads"], *window.kernel_size) if position else None,
        "static_kernel": None if static is None else normal(channels, static, *window.kernel_size),
    }


def in_steps(value, query, key, kernel_size, heads, position=None, normalization="softmax", **options):
    """Every pair of a query and a key by itself: columns of keys, a mask of columns of ones, and `extract` of the reference."""
    geometry = {name: options[name] for name in ("stride", "dilation") if name in options} | {"padding": "same"}
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


fused = partial(attend, backend="compiled", fused=True)


@pytest.mark.parametrize("normalization", ["none", "softmax", "sigmoid"])
@pytest.mark.parametrize("case", CASES)
def test_it_equals_attention_in_steps(case, normalization, made, poisoned_memory):  # noqa: F811
    call = call_of(case, position=False) if "not normalized" in case else call_of(case, normalization=normalization)
    assert_same(values_and_gradients(fused, call), values_and_gradients(in_steps, call))


@pytest.mark.parametrize("case", CASES)
def test_backends_that_store_the_kernel_equal_attention_in_steps(case, backend):
    call = call_of(case, position=case != "one head")
    stored = partial(attend, backend=backend, fused=False)
    assert_same(values_and_gradients(stored, call), values_and_gradients(in_steps, call))


@pytest.mark.parametrize("case", ["one head", "heads of several blocks", "tiles inside the image"])
def test_single_precision_is_at_most_twice_as_wrong_as_eager(case, made):
    call = call_of(case, torch.float32)
    double = {name: t.double() if isinstance(t, torch.Tensor) else t for name, t in call.items()}
    exact, ours = values_and_gradients(in_steps, double), values_and_gradients(fused, call)
    plain = values_and_gradients(partial(attend, backend="eager"), call)
    for name, expected in exact.items():
        wrong, allowed = ((results[name] - expected).square().mean().sqrt() for results in (ours, plain))
        floor = torch.finfo(torch.float32).eps * expected.square().mean().sqrt()
        assert wrong <= 2 * allowed + floor, f"{name}: error {wrong:.3g}, eager's {allowed:.3g}"


LEAVES = ("value", "query", "key", "position")


def test_first_and_second_derivatives(made):
    call = call_of("one head", channels=2, size=(2, 3), batch=1, heads=2)
    leaves = [call.pop(name).requires_grad_() for name in LEAVES]

    def function(*leaves):
        return fused(**call, **dict(zip(LEAVES, leaves, strict=True)))

    assert gradcheck(function, leaves)
    assert gradgradcheck(function, leaves)


@pytest.mark.parametrize("wanted", LEAVES)
def test_each_gradient_alone_equals_all(wanted, made):
    call = call_of("heads that fill no block")
    expected = values_and_gradients(in_steps, call)[wanted]
    leaf = call[wanted] = call[wanted].requires_grad_()
    y = fused(**call)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(torch.autograd.grad(y, leaf, cotangent)[0], expected)


def test_autograd_keeps_what_the_kernel_is_made_from_and_not_the_kernel(made):
    call = call_of("one head", torch.float32, kernel_size=7)
    leaves = [call[name].requires_grad_() for name in LEAVES]
    assert kept_bytes(lambda: fused(**call), *leaves) == 0
    assert kept_bytes(lambda: attend(**call, fused=False), *leaves) >= 2 * 49 * 5 * 7 * 4


def test_taps_outside_the_image_have_no_weight_however_small_the_others_are(made):
    call = call_of("one head", channels=4, size=(3, 3))
    call |= {"query": torch.full_like(call["query"], -1e3), "key": torch.ones_like(call["key"]), "position": None}
    assert_same(values_and_gradients(fused, call), values_and_gradients(in_steps, call))


def test_nothing_is_kept_on_demand_however_few_channels_share_a_kernel():
    pytest.importorskip("numba")
    call = call_of("one head", torch.float32, channels=4, heads=4)
    leaves = [call[name].requires_grad_() for name in LEAVES]
    assert kept_bytes(lambda: attend(**call, fused=True), *leaves) == 0


def test_multiply_adds_are_those_of_both_steps(made):
    call = call_of("heads of several blocks", torch.float32)
    counts = []
    for way in (True, False):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            attend(**call, backend="compiled", fused=way)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == 2 * 2 * 9 * (80 + 72) * 35


def test_the_operator_passes_torchs_own_checks(made):
    from unified_extractor.ops.backends.compiled import OPERATORS

    call = call_of("one head", torch.float32)
    value, query, key, position = (call[name].requires_grad_() for name in LEAVES)
    window = numbers(checks.geometry(value, 3, 1, "same", 1))
    made_from = (query, key, position.flatten(), 0.5, "softmax", 1)
    opcheck(OPERATORS.aggregate, (value, None, None, None, window, "gather", "multiply", *made_from))


def test_a_scale_is_of_products_and_position(made):
    """What no public function passes on."""
    from unified_extractor.ops.backends.compiled import OPERATORS

    call = call_of("heads that fill no block")
    value, query, key, position = (call[name] for name in LEAVES)
    window = numbers(checks.geometry(value, (3, 5), 1, "same", 1))

    def scaled(value, query, key, position):
        made_from = (query, key, position.flatten(), 0.3, "softmax", 4)
        return OPERATORS.aggregate(value, None, None, None, window, "gather", "multiply", *made_from)

    def plain(value, query, key, position):
        return in_steps(value, 0.3 * query, key, (3, 5), 4, 0.3 * position)

    tensors = {"value": value, "query": query, "key": key, "position": position}
    assert_same(values_and_gradients(scaled, tensors), values_and_gradients(plain, tensors))


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
        ({"fused": 1.5}, ("fused", "1.5")),
        ({"fused": True, "backend": "reference"}, ("fused", "reference")),
    ],
)
def test_wrong_calls_are_refused_by_name_and_value(changed, patterns):
    call = call_of("one head", torch.float32, heads=2) | changed
    with pytest.raises((ValueError, TypeError)) as error:
        attend(**call)
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
        ux.attend(x, x, x, 3, heads=2, position=position)
