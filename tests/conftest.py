"""What all tests share. By default tests marked ``sampled(n)`` run an n-th of their cases, always the same, ``thorough`` ones none:
``--thorough`` runs everything."""

import gc
import os
import sys
from collections import defaultdict
from zlib import crc32

import pytest
import torch
from matplotlib.figure import Figure

pytest_plugins = ["tests.support.cells_in_process"]
pytest.register_assert_rewrite("tests.support")  # their assertions tell values too

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports Triton: its kernels run on the CPU

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything imports timm: it would ask the network for weights

torch.set_num_threads(1)  # the tests run side by side, and their tensors are small


def pytest_addoption(parser):
    parser.addoption("--thorough", action="store_true", help="run every case of every test, slow ones included")


def pytest_collection_modifyitems(config, items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))
    if config.getoption("thorough"):
        return
    cases, left_out = defaultdict(list), {item for item in items if item.get_closest_marker("thorough")}
    for item in items:
        if item not in left_out:
            cases[item.nodeid.split("[")[0]].append(item)
    for those in cases.values():
        if sampled := those[0].get_closest_marker("sampled"):
            mixed = sorted(those, key=lambda item: crc32(item.nodeid.encode()))  # every n-th could be of one backend
            left_out.update(mixed[-(-len(mixed) // sampled.args[0]) :])
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]


def pytest_collection_finish(session):
    """Leave what is there before the first test out of every garbage collection, which took a tenth of the tests' time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture
def in_empty_folder(tmp_path, monkeypatch):
    """Runs write below the current folder and may set torch's threads."""
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _no_pictures(request, monkeypatch):
    """Draw no pictures of training, which would take half of a tiny run's time, but in tests marked ``pictures`` and under
    ``--thorough``."""
    if request.config.getoption("thorough") or request.node.get_closest_marker("pictures"):
        return
    for name in ("window_pictures", "label_map_pictures"):
        if (drawing := sys.modules.get(f"unified_extractor.training.callbacks.{name}")) is not None:
            monkeypatch.setattr(drawing, "IMAGES", 0)
    if (fit := sys.modules.get("unified_extractor.training.run.fit")) is not None:
        monkeypatch.setattr(fit, "draw_curves", lambda _: Figure(figsize=(1, 1)))


@pytest.fixture(autouse=True)
def _no_trial(request, monkeypatch):
    """Start runs without the steps that try their parts, which would take a third of a tiny run's time, but in tests marked
    ``trial`` and under ``--thorough``."""
    if request.config.getoption("thorough") or request.node.get_closest_marker("trial"):
        return
    if (cli := sys.modules.get("unified_extractor.training.cli.training_cli")) is not None:
        monkeypatch.setattr(cli, "try_steps", lambda *_: None)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _nothing_compiled():
    """Code that was compiled for other sizes before would be compiled for all sizes: a test would depend on those before it."""
    yield
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
