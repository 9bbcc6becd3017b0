"""Every wrong call is refused by name and value; every wild offset reads zero and disturbs nothing."""

import re

import pytest
import torch

import unified_extractor as ux
from tests.support.comparing import assert_same, values_and_gradients


def zeros(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


X = zeros(2, 4, 5, 6)
OUT = (3, 4)
DENSE, DEPTHWISE = zeros(4, 4, 3, 3), zeros(4, 1, 3, 3)
GATHER, FOLD = zeros(2, 2, 9, *OUT), zeros(2, 2, 9, 9, *OUT)
OFFSETS = zeros(2, 2, 9, 2, *OUT)
BIAS = zeros(4)

# (arguments on top of x=X and kernel_size=3, patterns that must all be found in the message)
GEOMETRY = [
    ({"x": zeros(4, 5, 6)}, ("x", "4, 5, 6")),
    ({"x": zeros(1, 2, 4, 5, 6)}, ("x", "1, 2, 4, 5, 6")),
    ({"x": zeros(6)}, ("x", "6")),
    ({"x": zeros(2, 4, 0, 6), "padding": 3}, ("x", "0")),
    ({"x": zeros(2, 4, 5, 0), "padding": 3}, ("x", "0")),
    ({"x": zeros(2, 4, 5, 6, dtype=torch.int64)}, ("x", "int64")),
    ({"x": zeros(2, 4, 5, 6, dtype=torch.bool)}, ("x", "bool")),
    ({"x": zeros(2, 4, 5, 6, dtype=torch.complex64)}, ("x", "complex64")),
    ({"x": zeros(2, 4, 5, 6).to(torch.float8_e4m3fn)}, ("x", "float8_e4m3fn")),
    ({"x": [[1.0]]}, ("x", "list")),
    ({"x": None}, ("x", "None(Type)?")),
    ({"kernel_size": 0}, ("kernel_size", "0")),
    ({"kernel_size": -3}, ("kernel_size", "-3")),
    ({"kernel_size": (3, 0)}, ("kernel_size", "0")),
    ({"kernel_size": 3.0}, ("kernel_size", r"3\.0")),
    ({"kernel_size": True}, ("kernel_size", "True")),
    ({"kernel_size": (3, True)}, ("kernel_size", "True")),
    ({"kernel_size": (3, 3, 3)}, ("kernel_size", r"3, 3, 3")),
    ({"kernel_size": (3,)}, ("kernel_size", "3,")),
    ({"kernel_size": ()}, ("kernel_size", r"\(\)")),
    ({"kernel_size": "3"}, ("kernel_size", "3")),
    ({"kernel_size": "same"}, ("kernel_size", "same")),
    ({"kernel_size": None}, ("kernel_size", "None")),
    ({"stride": 0}, ("stride", "0")),
    ({"stride": -1}, ("stride", "-1")),
    ({"stride": (1, 0)}, ("stride", "0")),
    ({"stride": 1.5}, ("stride", r"1\.5")),
    ({"stride": True}, ("stride", "True")),
    ({"stride": (1, 1, 1)}, ("stride", "1, 1, 1")),
    ({"stride": "same"}, ("stride", "same")),
    ({"stride": None}, ("stride", "None")),
    ({"padding": -1}, ("padding", "-1")),
    ({"padding": (0, -2)}, ("padding", "-2")),
    ({"padding": 1.0}, ("padding", r"1\.0")),
    ({"padding": True}, ("padding", "True")),
    ({"padding": (1, 1, 1, 1)}, ("padding", "1, 1, 1, 1")),
    ({"padding": "valid"}, ("padding", "valid")),
    ({"padding": None}, ("padding", "None")),
    ({"dilation": 0}, ("dilation", "0")),
    ({"dilation": (1, -1)}, ("dilation", "-1")),
    ({"dilation": 2.0}, ("dilation", r"2\.0")),
    ({"dilation": True}, ("dilation", "True")),
    ({"dilation": (1,)}, ("dilation", "1,")),
    ({"dilation": None}, ("dilation", "None")),
    ({"upsample": 0}, ("upsample", "0")),
    ({"upsample": (2, -1)}, ("upsample", "-1")),
    ({"upsample": 2.0}, ("upsample", r"2\.0")),
    ({"upsample": True}, ("upsample", "True")),
    ({"upsample": 2, "stride": (1, 2)}, ("upsample", "stride", "2, 2", "1, 2")),
    ({"kernel_size": 6}, ("kernel_size", "6")),
    ({"kernel_size": (3, 7)}, ("kernel_size", "7")),
    ({"dilation": 3}, ("dilation", "3")),
]
OFFSET = [
    ({"offsets": zeros(2, 36, *OUT)}, ("offsets", "2, 36, 3, 4")),
    ({"offsets": zeros(2, 9, 2, *OUT)}, ("offsets", "2, 9, 2, 3, 4")),
    ({"offsets": zeros(1, 2, 9, 2, *OUT)}, ("offsets", "1")),
    ({"offsets": zeros(2, 3, 9, 2, *OUT)}, ("offsets", "3", "4")),
    ({"offsets": zeros(2, 0, 9, 2, *OUT)}, ("offsets", "0")),
    ({"offsets": zeros(2, 8, 9, 2, *OUT)}, ("offsets", "8", "4")),
    ({"offsets": zeros(2, 2, 8, 2, *OUT)}, ("offsets", "8", "9")),
    ({"offsets": zeros(2, 2, 9, 3, *OUT)}, ("offsets", "3")),
    ({"offsets": zeros(2, 2, 9, 1, *OUT)}, ("offsets", "1")),
    ({"offsets": zeros(2, 2, 2, 9, *OUT)}, ("offsets", "9")),
    ({"offsets": zeros(2, 2, 9, 2, 5, 6)}, ("offsets", "5")),
    ({"offsets": zeros(2, 2, 9, 2, 4, 3)}, ("offsets", "4")),
    ({"offsets": zeros(2, 2, 9, 2, 3, 2)}, ("offsets", "2")),
    ({"offsets": zeros(2, 2, 9, 2, 0, 4)}, ("offsets", "0")),
    ({"offsets": OFFSETS.double()}, ("offsets", "float64")),
    ({"offsets": OFFSETS.half()}, ("offsets", "float16")),
    ({"offsets": OFFSETS.bfloat16()}, ("offsets", "bfloat16")),
    ({"offsets": OFFSETS.long()}, ("offsets", "int64")),
    ({"x": X.double(), "offsets": OFFSETS}, ("offsets", "float32")),
    ({"x": X.half(), "offsets": OFFSETS.double()}, ("offsets", "float64")),
    ({"x": X.half(), "offsets": OFFSETS.bfloat16()}, ("offsets", "bfloat16")),
    ({"offsets": 1.0}, ("offsets", "float")),
    ({"offsets": OFFSETS.tolist()}, ("offsets", "list")),
    ({"offsets": OFFSETS.to("meta")}, ("offsets", "meta")),
]
KERNELS = [
    ({"static_kernel": zeros(4, 4, 9)}, ("static_kernel", "4, 4, 9")),
    ({"static_kernel": zeros(4, 4, 3, 3, 1)}, ("static_kernel", "4, 4, 3, 3, 1")),
    ({"static_kernel": zeros(4, 4, 3, 2)}, ("static_kernel", "2")),
    ({"static_kernel": zeros(4, 4, 1, 1)}, ("static_kernel", "1")),
    ({"static_kernel": zeros(4, 3, 3, 3)}, ("static_kernel", "3", "4")),
    ({"static_kernel": zeros(4, 8, 3, 3)}, ("static_kernel", "8", "4")),
    ({"static_kernel": zeros(4, 0, 3, 3)}, ("static_kernel", "0")),
    ({"static_kernel": zeros(0, 4, 3, 3)}, ("static_kernel", "0")),
    ({"static_kernel": zeros(3, 2, 3, 3)}, ("static_kernel", "3", "2")),
    ({"static_kernel": zeros(6, 1, 3, 3)}, ("static_kernel", "6", "4")),
    ({"static_kernel": DENSE.double()}, ("static_kernel", "float64")),
    ({"static_kernel": DENSE.half()}, ("static_kernel", "float16")),
    ({"x": X.half(), "static_kernel": DENSE}, ("static_kernel", "float32")),
    ({"static_kernel": DENSE.long()}, ("static_kernel", "int64")),
    ({"static_kernel": DENSE.tolist()}, ("static_kernel", "list")),
    ({"static_kernel": DENSE.to("meta")}, ("static_kernel", "meta")),
    ({"dynamic_kernel": zeros(2, 18, *OUT)}, ("dynamic_kernel", "2, 18, 3, 4")),
    ({"dynamic_kernel": zeros(2, 4, 3, 3, *OUT)}, ("dynamic_kernel", "2, 4, 3, 3, 3, 4")),
    ({"dynamic_kernel": zeros(3, 2, 9, *OUT)}, ("dynamic_kernel", "3")),
    ({"dynamic_kernel": zeros(1, 2, 9, *OUT)}, ("dynamic_kernel", "1")),
    ({"dynamic_kernel": zeros(2, 3, 9, *OUT)}, ("dynamic_kernel", "3", "4")),
    ({"dynamic_kernel": zeros(2, 0, 9, *OUT)}, ("dynamic_kernel", "0")),
    ({"dynamic_kernel": zeros(2, 8, 9, *OUT)}, ("dynamic_kernel", "8", "4")),
    ({"dynamic_kernel": zeros(2, 2, 8, *OUT)}, ("dynamic_kernel", "8", "9")),
    ({"dynamic_kernel": zeros(2, 2, 2, *OUT)}, ("dynamic_kernel", "K=9", "K=1")),
    ({"dynamic_kernel": zeros(2, 2, 9, 5, 6)}, ("dynamic_kernel", "5")),
    ({"dynamic_kernel": zeros(2, 2, 9, 4, 3)}, ("dynamic_kernel", "4")),
    ({"dynamic_kernel": zeros(2, 2, 9, 3, 2)}, ("dynamic_kernel", "2")),
    ({"dynamic_kernel": GATHER.double()}, ("dynamic_kernel", "float64")),
    ({"x": X.half(), "dynamic_kernel": GATHER}, ("dynamic_kernel", "float32")),
    ({"dynamic_kernel": GATHER.long()}, ("dynamic_kernel", "int64")),
    ({"dynamic_kernel": 1.0}, ("dynamic_kernel", "float")),
    ({"dynamic_kernel": GATHER.to("meta")}, ("dynamic_kernel", "meta")),
    ({"dynamic_kernel": FOLD}, ("dynamic_kernel", "gather", "2, 2, 9, 9, 3, 4")),
    ({"channel_kernel": zeros(2, 4, 3, 3)}, ("channel_kernel", "2, 4, 3, 3")),
    ({"channel_kernel": zeros(1, 4, 9)}, ("channel_kernel", "2, 4, 9", "1, 4, 9")),
    ({"channel_kernel": zeros(2, 2, 9)}, ("channel_kernel", "2, 4, 9", "2, 2, 9")),
    ({"channel_kernel": zeros(2, 4, 3)}, ("channel_kernel", "2, 4, 9", "2, 4, 3", "K=1")),
    ({"channel_kernel": zeros(2, 4, 9).double()}, ("channel_kernel", "float64")),
    ({"channel_kernel": zeros(2, 4, 9).to("meta")}, ("channel_kernel", "meta")),
    ({"channel_kernel": 1.0}, ("channel_kernel", "float")),
    ({"bias": zeros(5)}, ("bias", "5", "4")),
    ({"bias": zeros(1)}, ("bias", "1", "4")),
    ({"bias": zeros(4, 1)}, ("bias", "4, 1")),
    ({"bias": zeros()}, ("bias", r"\[\]|\(\)|scalar")),
    ({"bias": BIAS, "static_kernel": zeros(6, 4, 3, 3)}, ("bias", "4", "6")),
    ({"bias": BIAS.double()}, ("bias", "float64")),
    ({"bias": BIAS.long()}, ("bias", "int64")),
    ({"bias": 0.5}, ("bias", "float")),
    ({"bias": True}, ("bias", "bool")),
    ({"bias": BIAS.to("meta")}, ("bias", "meta")),
]
CHOICES = [
    ({"combine": "mul"}, ("combine", "mul", "multiply", "add", "residual")),
    ({"combine": None}, ("combine", "None")),
    ({"combine": 1}, ("combine", "1")),
    ({"combine": ["add"]}, ("combine", "add")),
    ({"aggregation": "scatter"}, ("aggregation", "scatter", "gather", "fold")),
    ({"aggregation": None}, ("aggregation", "None")),
    ({"aggregation": True}, ("aggregation", "True")),
    ({"backend": "cuda"}, ("backend", "cuda", "eager", "reference")),
    ({"backend": ""}, ("backend", "''")),
    ({"backend": 3}, ("backend", "3")),
]
TERMS, GATES = zeros(3, 4, 1, 3, 3), zeros(2, 3, 2, 1, *OUT)
LINEAR = ux.LinearKernel(zeros(2, 5, *OUT), zeros(18, 5))
COMBINATIONS = [
    ({"static_kernel": TERMS}, ("static_kernel", "M=3", "dynamic_kernel", "None")),
    ({"static_kernel": TERMS, "dynamic_kernel": GATHER}, ("dynamic_kernel", r"\[B, M, G, K, Ho, Wo\]", "2, 2, 9, 3, 4")),
    ({"static_kernel": TERMS[:2], "dynamic_kernel": GATES}, ("static_kernel", "dynamic_kernel", "2, 3, 2, 1", "2, 4, 1, 3, 3")),
    ({"static_kernel": TERMS[:0], "dynamic_kernel": GATES[:, :0]}, ("static_kernel", "0, 4, 1, 3, 3")),
    ({"static_kernel": DEPTHWISE, "dynamic_kernel": GATES}, ("dynamic_kernel", "static_kernel", "terms", "2, 3, 2, 1, 3, 4")),
    ({"static_kernel": TERMS, "dynamic_kernel": zeros(2, 3, 2, 8, *OUT)}, ("dynamic_kernel", "K=9", "8")),
    ({"static_kernel": TERMS, "dynamic_kernel": zeros(2, 3, 3, 1, *OUT)}, ("dynamic_kernel", "G=3", "C=4")),
    ({"static_kernel": zeros(3, 4, 3, 3, 3), "dynamic_kernel": GATES}, ("static_kernel", "C=4", "3, 4, 3, 3, 3")),
    ({"static_kernel": TERMS, "dynamic_kernel": GATES, "combine": "residual"}, ("static_kernel", "M=3", "combine", "residual")),
    ({"static_kernel": TERMS, "dynamic_kernel": GATES, "aggregation": "fold"}, ("static_kernel", "M=3", "aggregation", "fold")),
    ({"static_kernel": TERMS, "dynamic_kernel": LINEAR}, ("static_kernel", "M=3", "dynamic_kernel", "LinearKernel")),
    ({"combine": "add"}, ("combine", "add", "static_kernel", "dynamic_kernel")),
    ({"combine": "add", "static_kernel": DENSE}, ("combine", "add", "dynamic_kernel")),
    ({"combine": "add", "dynamic_kernel": GATHER}, ("combine", "add", "static_kernel")),
    ({"combine": "residual", "static_kernel": DENSE}, ("combine", "residual", "dynamic_kernel")),
    ({"combine": "residual", "dynamic_kernel": GATHER}, ("combine", "residual", "static_kernel")),
    ({"combine": "add", "static_kernel": zeros(6, 4, 3, 3), "dynamic_kernel": GATHER}, ("combine", "add", "6", "4")),
    ({"combine": "add", "static_kernel": zeros(8, 1, 3, 3), "dynamic_kernel": GATHER}, ("combine", "add", "8", "4")),
    ({"combine": "add", "dynamic_kernel": GATHER, "channel_kernel": zeros(2, 4, 9)}, ("combine", "add", "static_kernel")),
    ({"static_kernel": TERMS, "channel_kernel": zeros(2, 4, 9)}, ("static_kernel", "M=3", "dynamic_kernel", "None")),
    ({"aggregation": "fold", "static_kernel": DENSE}, ("static_kernel", "fold", "depthwise")),
    ({"aggregation": "fold", "static_kernel": zeros(4, 2, 3, 3)}, ("static_kernel", "fold", "depthwise")),
    ({"aggregation": "fold", "static_kernel": zeros(8, 1, 3, 3)}, ("static_kernel", "fold", "8")),
    (
        {"aggregation": "fold", "combine": "add", "static_kernel": DEPTHWISE, "dynamic_kernel": FOLD},
        ("combine", "add", "aggregation", "fold"),
    ),
    (
        {"aggregation": "fold", "combine": "residual", "static_kernel": DEPTHWISE, "dynamic_kernel": FOLD},
        ("combine", "residual", "aggregation", "fold"),
    ),
    ({"aggregation": "fold", "dynamic_kernel": GATHER}, ("dynamic_kernel", "fold", "2, 2, 9, 3, 4")),
    ({"aggregation": "fold", "dynamic_kernel": zeros(2, 2, 9, 8, *OUT)}, ("dynamic_kernel", "8")),
    ({"aggregation": "fold", "dynamic_kernel": zeros(2, 2, 1, 9, *OUT)}, ("dynamic_kernel", "1")),
    ({"aggregation": "fold", "dynamic_kernel": zeros(2, 3, 9, 9, *OUT)}, ("dynamic_kernel", "3", "4")),
    ({"aggregation": "fold", "dynamic_kernel": zeros(2, 2, 9, 9, 5, 6)}, ("dynamic_kernel", "5")),
    ({"aggregation": "fold", "upsample": 2}, ("upsample", "aggregation", "fold", "2, 2")),
    ({"upsample": 2, "dynamic_kernel": GATHER}, ("dynamic_kernel", "Ho=6", "2, 2, 9, 3, 4")),
    ({"upsample": (1, 3), "offsets": OFFSETS}, ("offsets", "Wo=12", "2, 2, 9, 2, 3, 4")),
    ({"upsample": 2, "dynamic_kernel": LINEAR}, ("dynamic_kernel.feature", "6, 8", "2, 5, 3, 4")),
    ({"aggregation": "fold", "bias": zeros(3)}, ("bias", "3", "4")),
]


RIGHT = [
    {},
    {"static_kernel": TERMS, "dynamic_kernel": GATES, "offsets": OFFSETS, "bias": BIAS},
    {"static_kernel": DENSE, "dynamic_kernel": GATHER, "offsets": OFFSETS, "bias": BIAS},
    {"static_kernel": DENSE, "dynamic_kernel": GATHER, "combine": "add"},
    {"dynamic_kernel": GATHER, "channel_kernel": zeros(2, 4, 9)},
    {"static_kernel": DEPTHWISE, "dynamic_kernel": FOLD, "offsets": OFFSETS, "bias": BIAS, "aggregation": "fold"},
    {"x": X.half(), "offsets": OFFSETS},
    {"x": X.half(), "offsets": OFFSETS.half()},
    {"x": X.bfloat16(), "offsets": OFFSETS},
    {"kernel_size": [3, 3]},
    {"kernel_size": torch.Size((3, 3))},
    {"static_kernel": DEPTHWISE, "dynamic_kernel": GATHER, "combine": "residual"},
    {"offsets": OFFSETS},
]


@pytest.fixture(autouse=True)
def _right_calls_before():
    """What a right call leaves remembered must not make a wrong one right that differs in one argument."""
    for arguments in RIGHT:
        ux.extract(**{"x": X, "kernel_size": 3, **arguments})
    ux.extract(X, kernel_size=1)
    ux.generalized_unfold(X, 3)
    ux.generalized_unfold(X, 3, offsets=OFFSETS)


def assert_refused(function, patterns):
    with pytest.raises((ValueError, TypeError)) as caught:
        function()
    message = str(caught.value)
    for pattern in patterns:
        # The argument's own name or value: not a part of a longer word or number.
        assert re.search(rf"(?<![\w.])(torch\.)?({pattern})(?!\w)", message), f"no {pattern} in: {message}"


def named(cases):
    def words(value):
        if isinstance(value, torch.Tensor):
            return "x".join(map(str, value.shape)) + str(value.dtype).removeprefix("torch.") + str(value.device)
        return repr(value) if len(repr(value)) < 20 else type(value).__name__

    ids = (",".join(f"{name}={words(value)}" for name, value in case.items()) for case, _ in cases)
    return [pytest.param(*case, id=name) for case, name in zip(cases, ids, strict=True)]


@pytest.mark.parametrize(("arguments", "patterns"), named(GEOMETRY + OFFSET + KERNELS + CHOICES + COMBINATIONS))
def test_extract_refuses_a_wrong_call_by_name_and_value(arguments, patterns):
    assert_refused(lambda: ux.extract(**{"x": X, "kernel_size": 3, **arguments}), patterns)


@pytest.mark.parametrize(("arguments", "patterns"), named(GEOMETRY + OFFSET))
def test_generalized_unfold_refuses_a_wrong_call_by_name_and_value(arguments, patterns):
    assert_refused(lambda: ux.generalized_unfold(**{"x": X, "kernel_size": 3, **arguments}), patterns)


@pytest.mark.parametrize("arguments", RIGHT)
def test_the_right_calls_beside_the_wrong_ones_are_accepted(arguments):
    call = {"x": X, "kernel_size": 3, **arguments}
    assert ux.extract(**call).shape == (X.shape if call.get("aggregation") == "fold" else (2, 4, *OUT))


def test_an_unusable_backend_is_refused_with_its_reason():
    for name, reason in ux.backends().items():
        if reason is not None:
            with pytest.raises((ValueError, RuntimeError), match=re.escape(name)) as caught:
                ux.extract(X, kernel_size=3, backend=name)
            assert reason in str(caught.value)


WILD = [float("inf"), float("-inf"), float("nan"), 1e30, -1e30, 2.0**31, -(2.0**31), 2.0**63, -(2.0**63), "max"]
WILD_MODES = {
    "absent": {"dynamic": None},
    "generated": {},
    "dense": {"static": (3, 4, 2, 3)},
    "dense only": {"static": (3, 4, 2, 3), "dynamic": None},
    "depthwise": {"static": (4, 1, 2, 3)},
    "add": {"static": (4, 1, 2, 3), "combine": "add"},
    "residual": {"static": (3, 4, 2, 3), "combine": "residual"},
    "fold": {"aggregation": "fold", "dynamic": (6, 6)},
    "fold, depthwise": {"static": (4, 1, 2, 3), "aggregation": "fold", "dynamic": (6, 6)},
}
TAP = (1, slice(None), 4, slice(None), 1, 2)
KERNEL_TAP = (1, slice(None), ..., 4, 1, 2)


def wild_call(mode, dtype, value, axes=(0, 1)):
    """A legal call whose tap 4 of window (1, 2) of image 1 has the offset `value`, in y, x or both."""
    options = dict(WILD_MODES[mode])
    static, dynamic = options.pop("static", None), options.pop("dynamic", (6,))
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    offsets = normal(2, 2, 6, 2, 4, 4)
    offsets[TAP][:, list(axes)] = torch.finfo(dtype).max if value == "max" else value
    return options | {
        "x": normal(2, 4, 5, 6),
        "kernel_size": (2, 3),
        "offsets": offsets,
        "static_kernel": None if static is None else normal(*static),
        "dynamic_kernel": None if dynamic is None else normal(2, 4, *dynamic, 4, 4),
    }


@pytest.mark.sampled(4)
@pytest.mark.parametrize("wild", WILD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", WILD_MODES)
def test_a_wild_offset_is_a_tap_outside_the_image(mode, dtype, wild, backend):
    expected = values_and_gradients(ux.extract, wild_call(mode, dtype, 50.0) | {"backend": backend})
    for axes in ((0,), (1,), (0, 1)):
        actual = values_and_gradients(ux.extract, wild_call(mode, dtype, wild, axes) | {"backend": backend})
        assert_same(actual, expected, 1e-5 if dtype == torch.float32 else 1e-12)
        assert not actual["offsets"][TAP].any()
        assert WILD_MODES[mode].get("dynamic", True) is None or not actual["dynamic_kernel"][KERNEL_TAP].any()


@pytest.mark.parametrize("wild", WILD)
@pytest.mark.parametrize("mode", ["generated", "dense", "depthwise", "fold", "fold, depthwise"])
def test_a_wild_offset_is_a_zero_kernel_at_that_tap(mode, wild, backend):
    ordinary = wild_call(mode, torch.float64, 0.3)
    ordinary["dynamic_kernel"][KERNEL_TAP] = 0
    expected = values_and_gradients(ux.extract, ordinary | {"backend": backend})
    actual = values_and_gradients(ux.extract, wild_call(mode, torch.float64, wild) | {"backend": backend})
    assert expected["dynamic_kernel"][KERNEL_TAP].any()
    expected["dynamic_kernel"][KERNEL_TAP] = 0
    assert_same(actual, expected)


@pytest.mark.parametrize("wild", [float("inf"), float("nan"), 1e30])
def test_generalized_unfold_reads_zero_at_a_wild_offset(wild):
    names = ("x", "kernel_size", "offsets")
    call, outside = (
        {name: value for name, value in wild_call("absent", torch.float64, value).items() if name in names}
        for value in (wild, 50.0)
    )
    actual = values_and_gradients(ux.generalized_unfold, call)
    assert not actual["output"][1, :, 4, 1, 2].any()
    assert_same(actual, values_and_gradients(ux.generalized_unfold, outside))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wild", WILD[:3])
def test_a_field_wild_everywhere_leaves_the_bias(wild, dtype, backend):
    call = wild_call("generated", dtype, wild) | {"bias": torch.ones(4, dtype=dtype), "backend": backend}
    for offsets in (torch.full_like(call["offsets"], wild), torch.full_like(call["offsets"], wild, dtype=torch.float32)):
        results = values_and_gradients(ux.extract, call | {"offsets": offsets})
        assert (results.pop("output") == 1).all()
        assert results.pop("bias").any()
        assert not any(gradient.any() for gradient in results.values())


@pytest.mark.parametrize("aggregation", ["gather", "fold"])
@pytest.mark.parametrize("outside", [50.0, -50.0, float("inf"), float("-inf"), float("nan")])
def test_a_position_outside_never_touches_the_image(outside, aggregation, backend):
    """Not even a border full of nan: the value is zero, not zero times the nearest pixel."""
    x = torch.full((1, 2, 4, 5), torch.nan, dtype=torch.float64)
    offsets = torch.full((1, 1, 4, 2, 1, 1), outside, dtype=torch.float64)
    call = {"x": x, "kernel_size": 2, "padding": 1, "offsets": offsets, "aggregation": aggregation, "backend": backend}
    results = values_and_gradients(ux.extract, call)
    assert not any(result.any() for result in results.values())
