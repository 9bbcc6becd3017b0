"""The compiled backend as an operator of torch: values in every block of channels, derivatives, tracing, when it is chosen."""

import sys

import pytest
import torch
from torch.autograd import gradgradcheck
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

import unified_extractor as ux
from tests.support.comparing import assert_same, values_and_gradients
from tests.support.made_calls import BLOCKS, WORTH_COMPILING, block_call, extract_or_unfold
from tests.support.random_calls import random_call
from unified_extractor.ops import checks
from unified_extractor.ops.backends.compiled import Compiled
from unified_extractor.ops.call import Call
from unified_extractor.ops.functional import similarity

pytest.importorskip("numba")
import numba

from unified_extractor.ops.backends.compiled.launch import OPERATORS
from unified_extractor.ops.custom_ops import flattened


@pytest.mark.parametrize("seeds", [range(start, start + 15) for start in range(10_000, 10_150, 15)], ids=str)
def test_no_element_is_read_before_it_is_written(seeds, poisoned_memory):
    assert torch.empty(3).isnan().all()
    for seed in seeds:
        call = random_call(seed)
        expected = values_and_gradients(ux.extract, call | {"backend": "reference"}, seed)
        assert_same(values_and_gradients(ux.extract, call | {"backend": "compiled"}, seed), expected)


def run(backend, call):
    return values_and_gradients(lambda **call: extract_or_unfold(backend, **call), call)


@pytest.mark.parametrize("case", BLOCKS)
def test_blocks_of_channels_equal_the_reference(case, poisoned_memory):
    call = block_call(**BLOCKS[case])
    assert_same(run("compiled", call), run("reference", call))


@pytest.mark.parametrize("case", BLOCKS)
def test_single_precision_is_at_most_twice_as_wrong_as_eager(case, poisoned_memory):
    call = block_call(**BLOCKS[case], dtype=torch.float32)
    exact = run("reference", {name: t.double() if isinstance(t, torch.Tensor) else t for name, t in call.items()})
    compiled, eager = run("compiled", call), run("eager", call)
    for name, expected in exact.items():
        # of all elements: the largest error is that of one, and which one it is depends on the random numbers
        wrong, allowed = ((results[name] - expected).square().mean().sqrt() for results in (compiled, eager))
        floor = torch.finfo(torch.float32).eps * expected.square().mean().sqrt()
        assert wrong <= 2 * allowed + floor, f"{name}: error {wrong:.3g}, eager's {allowed:.3g}"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", ["nested groups", "dense, offsets", "fold", "unfold", "depthwise"])
def test_half_precision_is_single_precision_rounded(case, dtype):
    call = block_call(**BLOCKS[case], dtype=dtype)

    def rounded(**call):
        single = {name: t.float() if isinstance(t, torch.Tensor) else t for name, t in call.items()}
        return extract_or_unfold("compiled", **single).to(dtype)

    expected = values_and_gradients(rounded, call)
    assert all(torch.equal(result, expected[name]) for name, result in run("compiled", call).items())


LEAVES = {
    "gather": {"kernels": 1},
    "offsets": {"kernels": 2, "offset_groups": 1},
    "dense": {"kernels": 1, "static": (3, 2)},
    "depthwise, offsets": {"offset_groups": 2, "static": (2, 1)},
    "terms": {"kernels": 1, "static": (2, 1), "terms": 2, "per_tap": False, "offset_groups": 1},
    "fold": {"kernels": 1, "aggregation": "fold"},
    "unfold": {"offset_groups": 1, "aggregation": "unfold"},
}
TINY = {"channels": 2, "size": (3, 2), "kernel_size": 2, "batch": 1}


def leaves_of(call):
    """The tensors, taps with offsets a quarter of a pixel or more away from any whole number: no kink within a finite difference."""
    tensors = {name: t.clone() for name, t in call.items() if isinstance(t, torch.Tensor)}
    if "offsets" in tensors:
        tensors["offsets"] = tensors["offsets"].floor() + 0.25 + 0.5 * tensors["offsets"].frac().abs()
    return {name: t.requires_grad_() for name, t in tensors.items()}


def differentiable(case):
    """A function of positional leaves, and the leaves."""
    if case.startswith("similarity"):
        shapes = {"query": (1, 2, 3, 2), "key": (1, 2, 3, 2)} | ({"offsets": (1, 1, 4, 2, 3, 2)} if "offsets" in case else {})
        leaves = leaves_of({name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()})

        def product(query, key, offsets=None):
            return similarity(query, key, 2, heads=1, offsets=offsets, backend="compiled")

        return product, list(leaves.values())
    call = block_call(**TINY, **LEAVES[case])
    leaves = leaves_of(call)
    return lambda *t: extract_or_unfold("compiled", **call | dict(zip(leaves, t, strict=True))), list(leaves.values())


DIFFERENTIABLE = [*LEAVES, "similarity", "similarity, offsets"]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", DIFFERENTIABLE)
def test_second_gradients_equal_finite_differences(case):
    assert gradgradcheck(*differentiable(case))


@pytest.mark.parametrize("case", DIFFERENTIABLE)
def test_gradients_are_the_same_whether_they_are_differentiated_again_or_not(case):
    """`gradgradcheck` does not see it where another function is differentiated twice."""
    function, leaves = differentiable(case)
    y = function(*leaves)
    cotangent = torch.randn_like(y)
    once, again = (torch.autograd.grad(y, leaves, cotangent, retain_graph=True, create_graph=c) for c in (False, True))
    assert_same(dict(enumerate(again)), dict(enumerate(once)))


OPERATOR_CALLS = {
    "bare": {},
    "static": {"static": (6, 2)},
    "kernels": {"kernels": 2, "static": (4, 1)},
    "offsets": {"offset_groups": 2},
    "everything": {"kernels": 2, "offset_groups": 1, "static": (3, 4)},
    "fold": {"kernels": 1, "offset_groups": 2, "aggregation": "fold"},
    "unfold": {"offset_groups": 2, "aggregation": "unfold"},
}


def operator_call(case):
    """A call as the operators take it."""
    call = block_call(**OPERATOR_CALLS[case], size=(3, 4), kernel_size=2, dtype=torch.float32)
    tensors = [call.get(name) for name in ("x", "static_kernel", "dynamic_kernel", "offsets")]
    return Call(*tensors, None, checks.geometry(call["x"], 2, 1, 1, 1), call["aggregation"])


@pytest.mark.parametrize("case", OPERATOR_CALLS)
def test_operators_keep_the_laws_of_torch(case):
    call = operator_call(case)
    arguments, tensors = flattened(call), call[:4]
    gradient = torch.randn_like(OPERATORS.run(call))
    opcheck(OPERATORS.aggregate, arguments)
    for wanted in ([t is not None for t in tensors], [True, False, False, False]):
        of_backward = (gradient, *arguments[:7], wanted, *arguments[7:])
        opcheck(torch.ops.unified_extractor.compiled_aggregate_backward, of_backward)
    opcheck(OPERATORS.aggregate, (*(None if t is None else t.requires_grad_() for t in tensors), *arguments[4:]))


class Seen(TorchDispatchMode):
    """A mode that notes the names of our operators."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "unified_extractor":
            self.names.append(function._schema.name.split("::")[1])
        return function(*args, **(kwargs or {}))


def test_a_call_past_the_dispatcher_is_the_same_bit_for_bit():
    call = block_call(kernels=2, offset_groups=1, static=(4, 1))
    direct = run("compiled", call)
    with Seen() as seen:
        watched = run("compiled", call)
    assert seen.names == ["compiled_aggregate", "compiled_aggregate_backward"]
    assert watched.keys() == direct.keys()
    assert all(torch.equal(value, direct[name]) for name, value in watched.items())


@pytest.mark.parametrize("needs_gradient", [False, True])
def test_a_profiler_sees_the_operator_and_no_call_is_lost(needs_gradient):
    call = block_call(kernels=2)
    call["x"].requires_grad_(needs_gradient)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        ux.extract(**call, backend="compiled")
    assert "unified_extractor::compiled_aggregate" in {event.name for event in profile.events()}


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("case", ["bare", "offsets"])
def test_similarity_keeps_the_laws_of_torch(case, requires_grad):
    call = operator_call(case)
    tensors = [None if t is None else t.requires_grad_(requires_grad) for t in (torch.randn(2, 4, 4, 5), call.x, call.offsets)]
    opcheck(OPERATORS.similarity, (*tensors, 2, flattened(call)[7]))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("backend", ["compiled", None])
@pytest.mark.parametrize("dynamic", [False, True])
def test_traced_for_every_size_equals_eager(backend, dynamic):
    torch._dynamo.reset()

    def function(**call):
        return ux.extract(**call, backend=backend) * 2

    traced = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for size, batch in (((4, 5), 2), ((7, 6), 3), ((5, 9), 1)):
        call = block_call(**WORTH_COMPILING | {"size": size, "batch": batch})
        assert_same(
            values_and_gradients(traced, call), values_and_gradients(lambda **c: 2 * ux.extract(**c, backend="eager"), call)
        )


def test_inductor_equals_eager():
    torch._dynamo.reset()
    call = block_call(**WORTH_COMPILING)
    traced = torch.compile(lambda **call: ux.extract(**call, backend="compiled"), fullgraph=True, backend="inductor")
    assert_same(values_and_gradients(traced, call), run("eager", call))


@pytest.mark.parametrize(
    ("chosen", "call"),
    [
        ("eager", {"channels": 64, "static": (64, 64), "kernel_size": 7, "padding": 3}),
        ("eager", {"channels": 16, "kernels": 1, "kernel_size": 1, "padding": 0}),
        ("compiled", {"channels": 32, "kernels": 2, "kernel_size": 7, "padding": 3}),
        ("compiled", {"channels": 4, "offset_groups": 4}),
    ],
    ids=["convolution", "kernel 1", "kernel 7", "offsets"],
)
def test_the_faster_backend_is_chosen(chosen, call, backends_used):
    ux.extract(**block_call(**call))
    assert backends_used == [chosen]


def test_an_exported_program_does_not_need_the_backend(backends_used):
    class Call(torch.nn.Module):
        def forward(self, **call):
            return ux.extract(**call, kernel_size=5, padding=2)

    call = block_call(**WORTH_COMPILING)
    tensors = {name: call[name] for name in ("x", "dynamic_kernel")}
    program = torch.export.export(Call(), (), tensors)
    assert set(backends_used) == {"eager"}
    assert "unified_extractor" not in str(program.graph)


def test_without_numba_eager_runs_and_the_reason_names_the_extra(backends_used, monkeypatch):
    monkeypatch.setattr(Compiled, "unusable_because", lambda self: "it needs numba: pip install 'unified-extractor[compiled]'")
    call = block_call(**WORTH_COMPILING)
    ux.extract(**call)
    assert backends_used == ["eager"]
    assert "unified-extractor[compiled]" in ux.backends()["compiled"]
    with pytest.raises(ValueError, match=r"backend='compiled' is not usable here: .*unified-extractor\[compiled\]"):
        ux.extract(**call, backend="compiled")


@pytest.mark.parametrize("broken", ["NUMBA_DISABLE_JIT", "import"])
def test_a_numba_that_does_not_work_is_not_chosen_and_says_why(broken, monkeypatch):
    if broken == "import":
        monkeypatch.setitem(sys.modules, "numba", None)
    else:
        monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    call = block_call(**WORTH_COMPILING)
    assert ux.backends()["compiled"]
    torch.testing.assert_close(ux.extract(**call), ux.extract(**call, backend="eager"), rtol=0, atol=0)
    with pytest.raises(ValueError, match="not usable here"):
        ux.extract(**call, backend="compiled")
