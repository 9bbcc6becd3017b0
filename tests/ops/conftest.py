import pytest
import torch

import unified_extractor as ux

torch.set_num_threads(1)
USABLE = [name for name, reason in ux.backends().items() if reason is None and (name != "triton" or torch.cuda.is_available())]


@pytest.fixture(params=USABLE)
def backend(request):
    """Every backend usable on this machine. Triton's interpreter takes a hundred times as long: it has tests of its own."""
    return request.param
