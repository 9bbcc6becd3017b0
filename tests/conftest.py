import pytest
import torch

torch.set_num_threads(1)  # the tests run side by side, and their tensors are small


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
