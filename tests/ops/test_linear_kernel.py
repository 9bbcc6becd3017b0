"""A linear kernel that is recomputed equals one computed before: values, every gradient, in every backend, and autograd never saves it."""

import re
from functools import partial

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

import unified_extractor as ux
from tests.support.comparing import assert_same, values_and_gradients
from tests.support.generators import (
    NORMALIZATIONS,
    extract_linear,
    in_two_steps,
    kernel_of,
    random_generating_call,
    with_generator,
)
from tests.support.made_calls import BLOCKS, made_call
from tests.support.random_calls import random_call
from unified_extractor.analysis import saved_bytes
from unified_extractor.ops import checks
from unified_extractor.ops.call import Call
from unified_extractor.ops.custom_ops import flattened

STORING = ("reference", "eager")
GENERATED = {name: case for name, case in BLOCKS.items() if case.get("kernels") and not {"shared", "terms"} & case.keys()}


def call_of(case, dtype=torch.float64, **options):
    base = made_call(**({"size": (5, 6), "kernel_size": 3, "batch": 2} | GENERATED[case]), dtype=dtype)
    return with_generator(base, **({"depth": 18} | options))


def recomputed(**call):
    return extract_linear(**call, backend="compiled", kernel_memory="recompute")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("seeds", [range(start, start + 25) for start in range(20_000, 20_200, 25)], ids=str)
def test_random_calls_equal_the_reference(seeds, made, poisoned_memory):
    for seed in seeds:
        call = random_generating_call(seed, random_call(seed))
        if call is not None:
            assert_same(values_and_gradients(recomputed, call, seed), values_and_gradients(in_two_steps, call, seed))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("seed", range(20_000, 20_040))
def test_backends_that_store_the_kernel_equal_the_reference(seed, backend):
    call = random_generating_call(seed, random_call(seed))
    if call is not None:
        stored = partial(extract_linear, backend=backend, kernel_memory="auto" if backend in STORING else "store")
        assert_same(values_and_gradients(stored, call, seed), values_and_gradients(in_two_steps, call, seed))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("case", GENERATED)
def test_blocks_of_channels_equal_the_reference(case, normalization, made, poisoned_memory):
    call = call_of(case, normalization=normalization, scale=0.7)
    assert_same(values_and_gradients(recomputed, call), values_and_gradients(in_two_steps, call))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("case", GENERATED)
def test_single_precision_is_at_most_twice_as_wrong_as_in_two_steps(case, normalization, made):
    call = call_of(case, torch.float32, normalization=normalization)
    double = {name: t.double() if isinstance(t, torch.Tensor) else t for name, t in call.items()}
    exact = values_and_gradients(in_two_steps, double)
    ours, plain = values_and_gradients(recomputed, call), values_and_gradients(partial(in_two_steps, backend="eager"), call)
    for name, expected in exact.items():
        wrong, allowed = ((results[name] - expected).square().mean().sqrt() for results in (ours, plain))
        floor = torch.finfo(torch.float32).eps * expected.square().mean().sqrt()
        assert wrong <= 2 * allowed + floor, f"{name}: error {wrong:.3g}, in two steps {allowed:.3g}"


@pytest.mark.parametrize("values", [(-200.0, 0.0), (-88.5, -86.0), (80.0, 88.8), (88.7, 300.0), (-720.0, -700.0), (-1e4, 1e4)])
@pytest.mark.parametrize("normalization", ["softmax", "sigmoid"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_values_are_normalized_as_torch_does(values, normalization, dtype, made):
    """Where powers of e leave the range of the dtype."""
    x = torch.ones(1, 16, 6, 50, dtype=dtype)
    feature = torch.linspace(*values, 300, dtype=dtype).view(1, 1, 6, 50)
    weight = torch.tensor([[1.0], [0.5], [0.99], [-1.0]], dtype=dtype)
    call = {
        "x": x,
        "feature": feature,
        "head_weight": weight,
        "kernel_size": 2,
        "padding": "same",
        "normalization": normalization,
    }
    expected = extract_linear(**call, backend="eager")
    torch.testing.assert_close(recomputed(**call), expected)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_a_value_that_is_not_finite_spoils_only_its_window(value, normalization, made):
    call = call_of("whole blocks", normalization=normalization)
    clean = recomputed(**call)
    call["feature"][1, 3, 2, 4] = value
    spoiled, stored = recomputed(**call), extract_linear(**call, backend="eager")
    torch.testing.assert_close(spoiled, stored, equal_nan=True)
    other = torch.ones_like(clean, dtype=torch.bool)
    other[1, :, 2, 4] = False
    assert torch.equal(spoiled[other], clean[other])


@pytest.mark.parametrize("made", ["in the loops"], indirect=True)
def test_sums_do_not_depend_on_the_number_of_threads(made):
    base = made_call(channels=64, kernels=4, kernel_size=7, padding=3, size=(24, 25), batch=3, dtype=torch.float32)
    call, threads = with_generator(base, depth=16), torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(values_and_gradients(recomputed, call))
    finally:
        torch.set_num_threads(threads)
    for name, value in results[0].items():
        assert all(torch.equal(value, other[name]) for other in results[1:]), name


LEAVES = ("x", "feature", "head_weight", "head_bias")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("aggregation", ["gather", "fold"])
def test_first_and_second_derivatives(aggregation, normalization, made):
    base = made_call(channels=2, size=(3, 2), kernels=1, aggregation=aggregation)
    call = with_generator(base, depth=2, normalization=normalization)
    leaves = [call.pop(name).requires_grad_() for name in LEAVES]

    def function(*leaves):
        return recomputed(**call, **dict(zip(LEAVES, leaves, strict=True)))

    assert gradcheck(function, leaves)
    assert gradgradcheck(function, leaves)


@pytest.mark.parametrize("combine", ["multiply", "residual", "add"])
@pytest.mark.parametrize("wanted", ["x", "feature", "head_weight", "head_bias", "static_kernel", "offsets"])
def test_each_gradient_asked_for_by_itself_equals_that_of_all(wanted, combine, made):
    base = made_call(channels=20, static=(20, 1), kernels=2, offset_groups=2, combine=combine, size=(5, 6), kernel_size=3)
    call = with_generator(base, depth=5)
    expected = values_and_gradients(in_two_steps, call)[wanted]
    leaf = call[wanted] = call[wanted].requires_grad_()
    y = recomputed(**call)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(torch.autograd.grad(y, leaf, cotangent)[0], expected)


def test_the_operator_passes_torchs_own_checks(made):
    from unified_extractor.ops.backends.compiled.launch import OPERATORS

    call = with_generator(made_call(channels=4, kernels=2, kernel_size=3, size=(5, 6), dtype=torch.float32), depth=3)
    kernel = ux.LinearKernel(*(call[name].requires_grad_() for name in LEAVES[1:]), 0.5, "softmax")
    geometry = checks.geometry(call["x"], 3, 1, 1, 1)
    opcheck(OPERATORS.aggregate, flattened(Call(call["x"].requires_grad_(), None, kernel, None, None, geometry)))


def test_it_compiles_without_a_graph_break(made):
    call = call_of("whole blocks", torch.float32, normalization="softmax")

    def loss(feature):
        return recomputed(**call | {"feature": feature}).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    leaves = [call["feature"].clone().requires_grad_() for _ in range(2)]
    for function, leaf in zip((loss, compiled), leaves, strict=True):
        function(leaf).backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_precise_as_in_two_steps(dtype, made):
    call = call_of("whole blocks", dtype, normalization="softmax", depth=40)
    double = {name: t.double() if isinstance(t, torch.Tensor) else t for name, t in call.items()}
    exact = values_and_gradients(in_two_steps, double)
    ours, plain = values_and_gradients(recomputed, call), values_and_gradients(partial(in_two_steps, backend="eager"), call)
    for name, expected in exact.items():
        assert ours[name].dtype == dtype
        wrong, allowed = ((results[name] - expected).square().mean().sqrt() for results in (ours, plain))
        assert wrong <= 2 * allowed, f"{name}: error {wrong:.3g}, in two steps {allowed:.3g}"


def test_multiply_adds_are_those_of_both_steps(made):
    call = call_of("whole blocks", torch.float32)
    counts = []
    for function in (recomputed, partial(extract_linear, backend="compiled", kernel_memory="store")):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            function(**call)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("aggregation", ["gather", "fold"])
def test_autograd_keeps_what_the_kernel_is_made_from_and_not_the_kernel(aggregation, made):
    base = made_call(channels=32, kernels=2, kernel_size=3, size=(10, 11), dtype=torch.float32, aggregation=aggregation)
    call = with_generator(base, depth=4, normalization="softmax")
    leaves = [call[name].requires_grad_() for name in LEAVES]
    expected = sum(leaf.untyped_storage().nbytes() for leaf in leaves)
    assert saved_bytes(lambda: recomputed(**call)) == expected
    kernel = kernel_of(*(call[name] for name in LEAVES[1:]), 1.0, "softmax", 3, aggregation).nbytes
    stored = saved_bytes(lambda: extract_linear(**call, backend="compiled", kernel_memory="store"), *leaves)
    assert stored == kernel


def test_a_normalized_kernel_that_one_is_added_to_is_stored():
    pytest.importorskip("numba")
    call = with_generator(made_call(channels=20, static=(20, 1), kernels=2, combine="residual"), depth=3, normalization="softmax")
    assert_same(values_and_gradients(recomputed, call), values_and_gradients(in_two_steps, call))


X, FEATURE, WEIGHT = torch.zeros(2, 4, 5, 6), torch.zeros(2, 3, 3, 4), torch.zeros(18, 3)
WRONG = [
    ({"feature": torch.zeros(2, 3, 5, 6)}, (r"dynamic_kernel\.feature", "3, 4", "5, 6")),
    ({"feature": torch.zeros(1, 3, 3, 4)}, (r"dynamic_kernel\.feature", "1, 3, 3, 4")),
    ({"feature": torch.zeros(2, 3, 1, 1)}, (r"dynamic_kernel\.feature", "1, 1")),
    ({"feature": torch.zeros(2, 0, 3, 4)}, (r"dynamic_kernel\.feature", "0")),
    ({"feature": torch.zeros(3, 3, 4)}, (r"dynamic_kernel\.feature", "3, 3, 4")),
    ({"feature": FEATURE.double()}, (r"dynamic_kernel\.feature", "float64")),
    ({"feature": None}, (r"dynamic_kernel\.feature", "None")),
    ({"head_weight": torch.zeros(18, 4)}, (r"dynamic_kernel\.weight", "R=3", "18, 4")),
    ({"head_weight": torch.zeros(20, 3)}, (r"dynamic_kernel\.weight", "9", "20, 3")),
    ({"head_weight": torch.zeros(0, 3)}, (r"dynamic_kernel\.weight", "0, 3")),
    ({"head_weight": torch.zeros(27, 3)}, (r"dynamic_kernel\.weight", "G=3", "C=4")),
    ({"head_weight": torch.zeros(18, 3, 1, 1)}, (r"dynamic_kernel\.weight", "18, 3, 1, 1")),
    ({"head_weight": WEIGHT, "aggregation": "fold"}, (r"dynamic_kernel\.weight", "81", "fold")),
    ({"head_bias": torch.zeros(9)}, (r"dynamic_kernel\.bias", "18", "9")),
    ({"head_bias": 0.0}, (r"dynamic_kernel\.bias", "float")),
    ({"scale": 0.0}, ("scale", "0")),
    ({"scale": torch.inf}, ("scale", "inf")),
    ({"scale": "1"}, ("scale", "1")),
    ({"normalization": "group_norm"}, ("normalization", "group_norm", "softmax")),
    ({"normalization": None}, ("normalization", "None")),
    ({"kernel_memory": "yes"}, ("kernel_memory", "yes")),
    ({"kernel_memory": True}, ("kernel_memory", "True")),
    ({"kernel_memory": "recompute", "backend": "eager"}, ("kernel_memory", "eager")),
    ({"backend": "cuda"}, ("backend", "cuda")),
    ({"aggregation": "scatter"}, ("aggregation", "scatter")),
    ({"combine": "residual"}, ("combine", "static_kernel")),
]


@pytest.mark.parametrize(("changed", "patterns"), WRONG, ids=lambda value: "" if isinstance(value, tuple) else "-".join(value))
def test_wrong_calls_are_refused_by_name_and_value(changed, patterns):
    call = {"x": X, "feature": FEATURE, "head_weight": WEIGHT, "kernel_size": 3} | changed
    with pytest.raises((ValueError, TypeError)) as error:
        extract_linear(**call)
    for pattern in patterns:
        assert re.search(pattern, str(error.value)), f"{pattern!r} is not in {error.value}"


def test_the_backend_is_asked_what_is_faster(monkeypatch):
    """Nothing asked for: recomputed where the backend says so."""
    pytest.importorskip("numba")
    from unified_extractor.ops.backends.compiled import recomputing

    call = with_generator(made_call(channels=64, kernels=4, kernel_size=7, padding=3, size=(9, 9), dtype=torch.float32), depth=16)
    leaves = [call[name].requires_grad_() for name in LEAVES]
    for worth, kernel in ((0, 64 // 16 * 49 * 81 * 4), (1e9, 0)):
        monkeypatch.setattr(recomputing, "MOST_WORK", worth)
        assert saved_bytes(lambda: extract_linear(**call), *leaves) == kernel


@pytest.mark.parametrize("kernel", [(FEATURE, WEIGHT), [1.0], 1.0])
def test_a_value_that_is_no_dynamic_kernel_is_answered_with_all_that_are(kernel):
    with pytest.raises(TypeError, match=r"dynamic_kernel must be a tensor .*, a LinearKernel or an AttentionKernel, got"):
        ux.extract(X, kernel_size=3, dynamic_kernel=kernel)
