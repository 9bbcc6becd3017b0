import pytest
import torch

import unified_extractor as ux

torch.set_num_threads(1)
USABLE = [name for name, reason in ux.backends().items() if reason is None]


@pytest.fixture(params=USABLE)
def backend(request):
    """Every backend usable on this machine."""
    return request.param
