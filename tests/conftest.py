"""What all tests share. By default tests marked ``sampled(n)`` run every n-th of their cases, ``thorough`` ones none: ``--thorough``
runs everything."""

import os
import sys
from collections import Counter

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports Triton: its kernels run on the CPU

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything imports timm: it would ask the network for weights

torch.set_num_threads(1)  # the tests run side by side, and their tensors are small


def pytest_addoption(parser):
    parser.addoption("--thorough", action="store_true", help="run every case of every test, slow ones included")


def pytest_collection_modifyitems(config, items):
    if config.getoption("thorough"):
        return
    cases, left_out = Counter(), []
    for item in items:
        sampled = item.get_closest_marker("sampled")
        cases[test := item.nodeid.split("[")[0]] += 1
        if item.get_closest_marker("thorough") or (sampled and (cases[test] - 1) % sampled.args[0]):
            left_out.append(item)
    config.hook.pytest_deselected(items=left_out)
    unwanted = set(left_out)
    items[:] = [item for item in items if item not in unwanted]


@pytest.fixture
def in_empty_folder(tmp_path, monkeypatch):
    """Runs write below the current folder and may set torch's threads."""
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _nothing_compiled():
    """Code that was compiled for other sizes before would be compiled for all sizes: a test would depend on those before it."""
    yield
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
