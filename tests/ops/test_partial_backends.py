"""Backends that refuse calls. The one of the tutorial stands for those that the package may get."""

import re
from pathlib import Path

import pytest
import torch

import unified_extractor as ux
from tests.support import oracles
from tests.support.backends import APART, COMPLETE, PARTIAL, named, skip_refused_calls
from tests.support.comparing import assert_same, values_and_gradients
from tests.support.random_calls import random_call
from unified_extractor.ops import checks, dispatch

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorials" / "extend.md"


@pytest.fixture
def from_tutorial(monkeypatch):
    """Return the tutorial's backend, which is in the list of backends during the test."""
    section = TUTORIAL.read_text().split("\n## A backend\n")[1]
    names: dict[str, object] = {}
    exec(re.search(r"```python\n(.*?)\ndispatch\.BACKENDS", section, re.DOTALL)[1], names)
    backend = names["Unfold"]()
    monkeypatch.setattr(dispatch, "BACKENDS", [backend, *dispatch.BACKENDS])
    return backend


@pytest.mark.parametrize("name", ["from_tutorial", *PARTIAL])
def test_a_random_call_equals_the_formula_or_is_refused_in_words(name, request):
    """Empty batches and channel kernels are among them."""
    backend = request.getfixturevalue(name) if name == "from_tutorial" else named(name)
    ran = 0
    for seed in range(450):
        call = random_call(seed)
        reason = backend.refuses_because(checks.call(**call))
        if reason is None:
            expected = values_and_gradients(oracles.extract, call, seed)
            assert_same(values_and_gradients(ux.extract, call | {"backend": backend.name}, seed), expected)
            ran += 1
        else:
            assert reason
            if seed < 20:
                with pytest.raises(ValueError, match=f"backend='{backend.name}' is not usable here: {re.escape(reason)}"):
                    ux.extract(**call, backend=backend.name)
    assert ran, f"{backend.name} refuses every call"


def test_the_tests_of_every_backend_skip_what_one_refuses_that_need_not_run_all(from_tutorial, monkeypatch):
    call = {"x": torch.ones(1, 1, 3, 3), "kernel_size": 3}
    skip_refused_calls(from_tutorial.name, monkeypatch)
    with pytest.raises(pytest.skip.Exception, match="dynamic kernel"):
        ux.extract(**call, backend=from_tutorial.name)
    assert ux.extract(**call).item() == 9  # by one that was not demanded


@pytest.mark.parametrize("name", sorted(COMPLETE - APART))
def test_they_do_not_skip_what_one_refuses_that_must_run_all(name, monkeypatch):
    if ux.backends()[name]:
        pytest.skip("it does not run here")
    monkeypatch.setattr(named(name), "refuses_because", lambda call: "of a mistake")
    skip_refused_calls(name, monkeypatch)
    with pytest.raises(ValueError, match="of a mistake"):
        ux.extract(torch.ones(1, 1, 3, 3), kernel_size=3, backend=name)


def test_a_backend_that_is_skipped_or_left_out_has_tests_of_its_own():
    lacking = [backend.name for backend in dispatch.BACKENDS if backend.name in APART or backend.name not in COMPLETE]
    assert lacking
    for name in lacking:
        assert Path(__file__).with_name(f"test_{name}.py").is_file(), f"{name} needs tests/ops/test_{name}.py"
