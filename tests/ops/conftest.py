import pytest
import torch

import unified_extractor as ux

torch.set_num_threads(1)
USABLE = [name for name, reason in ux.backends().items() if reason is None and (name != "triton" or torch.cuda.is_available())]


@pytest.fixture(params=USABLE)
def backend(request):
    """Every backend usable on this machine. Triton's interpreter takes a hundred times as long: it has tests of its own."""
    return request.param


@pytest.fixture(params=["on the way", "before"])
def made(request, monkeypatch):
    """Where the compiled backend makes a kernel that is not kept: in its loops, or by a matrix product, once in each pass."""
    pytest.importorskip("numba")
    from unified_extractor.ops.backends.compiled import maps

    monkeypatch.setattr(maps, "_WORTH_GENERATING", {"on the way": 1e9, "before": 0}[request.param])
    return request.param
