import pytest
import torch

import unified_extractor as ux
from tests.support.backends import SHARED, skip_refused_calls
from tests.support.triton_interpreter import patch_the_language_once_a_launch
from tests.support.triton_runs import DEVICE, GPU
from unified_extractor.ops import dispatch

torch.set_num_threads(1)
if not GPU and ux.backends()["triton"] is None:
    patch_the_language_once_a_launch()


@pytest.fixture(params=SHARED)
def backend(request, monkeypatch):
    """Every backend usable on this machine's CPU but Triton's interpreter. One that need not run every call skips those that it refuses."""
    skip_refused_calls(request.param, monkeypatch)
    return request.param


@pytest.fixture(params=["in the loops", "before"])
def made(request, monkeypatch):
    """Where the compiled backend computes a kernel that is not saved: in its loops, or by a matrix product, once in each pass."""
    pytest.importorskip("numba")
    from unified_extractor.ops.backends.compiled import recomputing

    monkeypatch.setattr(recomputing, "MOST_WORK", {"in the loops": 1e9, "before": 0}[request.param])
    return request.param


@pytest.fixture
def poisoned_device_memory(request, monkeypatch):
    """Fresh memory is filled with NaN: an element never written is seen. By atomics or sorted: both gradients of an image with offsets."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3, device=DEVICE).isnan().all()
    if getattr(request, "param", "atomics") == "atomics":
        monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: False)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def poisoned_memory():
    """Fresh memory, scratch and outputs, is filled with NaN: what is read before it is written is seen."""
    was_on, filled = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(was_on)
    torch.utils.deterministic.fill_uninitialized_memory = filled


@pytest.fixture
def backends_used(monkeypatch):
    """Names of the backends that ran, in their order."""
    names = []
    for backend in dispatch.BACKENDS:

        def run(call, backend=backend, original=backend.run):
            names.append(backend.name)
            return original(call)

        monkeypatch.setattr(backend, "run", run, raising=True)
    return names


@pytest.fixture
def started(monkeypatch):
    """Names of the Triton kernels that ran, in their order."""
    from unified_extractor.ops.backends.triton import launch

    names, start = [], launch.start
    monkeypatch.setattr(
        launch, "start", lambda kernel, *rest, **named: names.append(kernel.base_fn.__name__) or start(kernel, *rest, **named)
    )
    return names
