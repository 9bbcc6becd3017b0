"""Prepared calls of the Triton backend: what was recorded of a call is repeated with other tensors, and never where it may not be."""

import weakref

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

import unified_extractor as ux
from tests.support.triton_runs import DEVICE
from unified_extractor.ops.backends.triton import prepared
from unified_extractor.ops.backends.triton.repetition import Place, Step, repetition


@pytest.fixture
def repeated(monkeypatch):
    """Return a list with an entry for each repetition of a call that is recorded from here on."""
    found = []

    def counted(*recorded):
        repeat = repetition(*recorded)

        def run(*tensors):
            found.append(repeat)
            return repeat(*tensors)

        return run

    monkeypatch.setattr(prepared, "repetition", counted)
    return found


CASES = {
    "involution": {"dynamic_kernel": (1, 2, 4, 3, 4)},
    "offsets": {"dynamic_kernel": (1, 1, 4, 3, 4), "offsets": (1, 1, 4, 2, 3, 4)},
    "depthwise": {"dynamic_kernel": (1, 1, 4, 3, 4), "static_kernel": (4, 1, 2, 2)},
    "dense": {"dynamic_kernel": (1, 1, 4, 3, 4), "static_kernel": (4, 4, 2, 2)},
}


def prepared_call(run):
    """Return the prepared function of tensors that runs ``run``."""
    fast = prepared.prepared(lambda tensors, rest: run(*tensors))
    return lambda *tensors: fast(tensors, ())


def step(case, backend, seed, size=(3, 4), dtype=torch.float32):
    """Return output and gradients of a call with random values, and the call's tensors."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"x": (1, 4, *size)} | CASES[case]
    shapes = {name: (*shape[:-2], *size) if name != "static_kernel" else shape for name, shape in shapes.items()}
    tensors = {name: torch.randn(shape, generator=generator).to(DEVICE, dtype).requires_grad_() for name, shape in shapes.items()}
    y = ux.extract(**tensors, kernel_size=2, padding="same", backend=backend)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), list(tensors.values()))]


@pytest.mark.parametrize("case", CASES)
def test_a_repeated_call_computes_with_the_tensors_it_is_given(case, repeated):
    for seed in range(4):
        expected = step(case, "reference", seed)
        for ours, exact in zip(step(case, "triton", seed), expected, strict=True):
            torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-4)
    assert len(repeated) == 4  # forward and backward of the third and of the fourth call
    before = len(repeated)
    step(case, "triton", 0, size=(2, 5))
    assert len(repeated) == before


def test_results_of_repeated_calls_have_memory_of_their_own(repeated):
    results = [step("involution", "triton", seed, size=(4, 3)) for seed in range(4)]
    assert repeated
    pointers = [tensor.data_ptr() for result in results for tensor in result]
    assert len(set(pointers)) == len(pointers)


def test_a_switch_that_decides_about_kernels_makes_another_call(repeated):
    for _ in range(3):
        step("offsets", "triton", 0, size=(2, 2))
    before = len(repeated)
    torch.use_deterministic_algorithms(True)
    try:
        step("offsets", "triton", 0, size=(2, 2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert len(repeated) == before


def test_another_dtype_layout_or_alignment_makes_another_call(repeated):
    fast, x = prepared_call(lambda x: x * 2), torch.ones(8, 8, device=DEVICE)
    for _ in range(3):
        fast(x)
    assert len(repeated) == 1
    for other in (x.double(), x.t(), torch.ones(65, device=DEVICE)[1:].view(8, 8)):
        assert torch.equal(fast(other), other * 2)
    assert len(repeated) == 1


def test_a_call_that_depends_on_values_is_not_repeated(repeated):
    def run(x):
        return x * 2 if x.sum() > 0 else x * 3

    fast = prepared_call(run)
    for sign in (1.0, 1.0, 1.0, -1.0):
        x = torch.full((2,), sign)
        torch.testing.assert_close(fast(x), run(x))
    assert not repeated


def test_a_call_that_uses_a_tensor_from_elsewhere_is_not_repeated(repeated):
    hidden = torch.ones(2)
    fast = prepared_call(lambda x: x + hidden)
    for _ in range(4):
        fast(torch.zeros(2))
    assert not repeated


def test_inputs_that_are_one_tensor_are_not_taken_for_two(repeated):
    fast = prepared_call(lambda x, y: x - y)
    for _ in range(3):
        same = torch.ones(2)
        fast(same, same)
    torch.testing.assert_close(fast(torch.ones(2), torch.zeros(2)), torch.ones(2))
    assert not repeated


def test_memory_between_the_steps_of_a_repeated_call_is_freed_as_before():
    alive: list[weakref.ref] = []

    def plus_one(x):
        counts.append(sum(reference() is not None for reference in alive))
        y = x + 1
        alive.append(weakref.ref(y))
        return y

    counts: list[int] = []
    repeat = repetition(1, [Step(plus_one, (Place(n),), {}, Place(n + 1)) for n in range(3)], [Place(3), Place(0)])
    y, x = repeat(torch.zeros(2))
    assert counts == [0, 1, 1]
    assert (x.tolist(), y.tolist()) == ([0, 0], [3, 3])


def test_a_step_with_several_results_is_repeated(repeated):
    fast = prepared_call(lambda x: torch.std_mean(x)[1] + torch.unbind(x)[1])
    for seed in range(4):
        x = torch.randn(5, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(fast(x), x.mean() + x[1])
    assert len(repeated) == 2


def test_tensors_are_forgotten_when_a_call_is_recorded():
    fast = prepared_call(lambda x: x.clone())
    for _ in range(3):
        x = torch.zeros(3)
        y = fast(x)
        references = [weakref.ref(x), weakref.ref(y)]
        del x, y
        assert all(reference() is None for reference in references)
