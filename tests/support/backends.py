"""Which backends the tests of every backend run, and what such a test does where one of them refuses a call."""

import pytest

import unified_extractor as ux
from unified_extractor.ops import dispatch

COMPLETE = {"reference", "eager", "compiled", "triton"}
"""Backends that run every call on their device: a call that one of them refuses fails the test. For any other backend it is skipped."""
APART = {"triton"}
"""Backends whose device is not the CPU, or that take a hundred times as long there: the tests of every backend leave them out."""
SHARED = [name for name, reason in ux.backends().items() if reason is None and name not in APART]
"""Backends that the tests of every backend run on this machine."""
COMPARED = [name for name in SHARED if name != "reference"]
PARTIAL = [name for name in SHARED if name not in COMPLETE]


def skip_refused_calls(name, monkeypatch):
    """Skip the test at a call that demands this backend and is refused by it, unless the backend runs every call."""
    if name in COMPLETE:
        return
    choose = dispatch._choose

    def chosen(call, backend, kernel_memory):
        if backend == name and (reason := named(name).refuses_because(call)):
            pytest.skip(f"{name} refuses the call: {reason}")
        return choose(call, backend, kernel_memory)

    monkeypatch.setattr(dispatch, "_choose", chosen)


def named(name):
    return next(backend for backend in dispatch.BACKENDS if backend.name == name)
