"""What the compiled backend keeps on disk: in fresh processes, with several of them at once, and where nothing can be written."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import unified_extractor as ux
from unified_extractor.commands import compile as compile_command

pytest.importorskip("numba")
import numba

from unified_extractor.ops.backends.compiled import compilation, forward

PACKAGE = Path(ux.__file__).parent
PLACE = """
import time
import torch
import unified_extractor as ux
from unified_extractor.ops.backends.compiled import forward

print(ux.__file__)
print(getattr(forward.forward._cache, "cache_path", None))
"""
CALL = """
x = torch.arange(2 * 16 * 4 * 5.0).reshape(2, 16, 4, 5).div(64)
kernel = torch.arange(2 * 9 * 4 * 5.0).reshape(2, 1, 9, 4, 5).div(360).requires_grad_({backward})
start = time.perf_counter()
y = ux.extract(x, kernel_size=3, dynamic_kernel=kernel, padding=1, backend="compiled")
if {backward}:
    y = torch.cat([y.flatten(), torch.autograd.grad(y.square().sum(), kernel)[0].flatten()])
print(time.perf_counter() - start)
print(y.double().sum().item().hex(), y.double().square().sum().item().hex())
"""


TINY = """
from unified_extractor.ops.backends.compiled import compilation

@compilation.kernel
def tiny(a, b, like):
    return a + b * like
"""
CALL_OF_TINY = """
from unified_extractor.ops.backends.compiled.tiny import tiny
print(0)
print(tiny(2, 3, 4.0))
"""


def begun(package=PACKAGE, call=CALL, backward=False, **environment):
    """A fresh process that says where its cache is and makes one call."""
    return subprocess.Popen(
        [sys.executable, "-c", PLACE + call.format(backward=backward)],
        env=os.environ | {"PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"} | environment,
        cwd=package.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process, package=PACKAGE):
    """Its cache's folder, seconds of the call, values, and lines it wrote to stderr."""
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    origin, folder, *rest = out.splitlines()
    assert Path(origin).parent == package
    seconds, values = rest or (0, None)
    return folder, float(seconds), values, err.splitlines()


def test_what_one_process_compiled_the_next_does_not():
    """In the folder that all tests share: with a folder of its own this takes a minute, under ``thorough``."""
    compile_command.main([])
    _, _, values, said = ended(begun(backward=True))
    assert values is not None
    assert said == []


@pytest.mark.thorough
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward too"])
def test_a_second_process_compiles_nothing(backward, tmp_path):
    folder, first_seconds, first, said = ended(begun(backward=backward, NUMBA_CACHE_DIR=str(tmp_path)))
    assert Path(folder).is_relative_to(tmp_path)
    announced, finished = said[::2], said[1::2]
    assert all(f"kept in {folder}" in line and "uniex compile" in line for line in announced)
    for lines in (announced, finished):
        assert ["forward" in line for line in lines] == [True, False][: 1 + backward]
        assert ["backward" in line for line in lines] == [False, True][: 1 + backward]
    assert all(re.search(r"compiled the \w+ pass for float32 in \d+ s$", line) for line in finished)
    assert first_seconds < 120

    _, seconds, second, said = ended(begun(backward=backward, NUMBA_CACHE_DIR=str(tmp_path)))
    assert (second, said) == (first, [])
    assert seconds < first_seconds / 2


@pytest.mark.thorough
def test_processes_that_compile_at_once_leave_a_usable_cache(tmp_path):
    together = [begun(NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(3)]
    results = [ended(process) for process in together]
    values = {values for _, _, values, _ in results}
    assert len(values) == 1

    _, _, later, said = ended(begun(NUMBA_CACHE_DIR=str(tmp_path)))
    assert ({later}, said) == (values, [])


@pytest.fixture
def read_only(tmp_path, monkeypatch):
    """A copy of the package beside which no cache can be kept: even root cannot make a folder where a file is."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    package = tmp_path / "installation" / "unified_extractor"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "ops" / "backends" / "compiled" / "__pycache__").touch()
    return package


def test_a_read_only_installation_keeps_its_cache_with_the_user(read_only, tmp_path):
    home = tmp_path / "home"
    process = begun(read_only, call="", HOME=str(home), XDG_CACHE_HOME=str(home / ".cache"))
    assert Path(ended(process, read_only)[0]).is_relative_to(home)


@pytest.mark.parametrize("call", [CALL_OF_TINY, pytest.param(CALL, marks=pytest.mark.thorough)], ids=["a tiny pass", "forward"])
def test_where_no_folder_is_writable_it_says_so_and_runs(call, read_only, tmp_path):
    nowhere = tmp_path / "a file"
    nowhere.touch()
    (read_only / "ops" / "backends" / "compiled" / "tiny.py").write_text(TINY)
    folder, _, values, said = ended(begun(read_only, call, HOME=str(nowhere), XDG_CACHE_HOME=str(nowhere)), read_only)
    assert folder == "None"
    assert values is not None
    assert len(said) == 2
    assert "no folder is writable" in said[0]
    assert "NUMBA_CACHE_DIR" in said[0]


def digest_of(folder):
    """What a copy of the backend in this folder would have in its key."""
    spec = importlib.util.spec_from_file_location("copied_compilation", folder / "compilation.py")
    copied = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copied)
    return copied._SOURCES


def test_a_change_of_any_source_is_another_key(tmp_path):
    key = forward.forward._cache._index_key((), forward.forward.targetctx.codegen())
    assert {compilation._SOURCES, compilation.VECTOR_BITS} <= set(key)
    copied = Path(shutil.copytree(Path(compilation.__file__).parent, tmp_path / "ops" / "backends" / "compiled"))
    shutil.copy(PACKAGE / "ops" / "call.py", tmp_path / "ops")
    digests = {digest_of(copied)}
    assert digests == {compilation._SOURCES}
    sources = [*copied.glob("*.py"), tmp_path / "ops" / "call.py"]  # the last: a record of it lies among the arguments
    for source in sources:
        source.write_text(source.read_text() + "# changed")
        digests.add(digest_of(copied))
    assert len(digests) == 1 + len(sources)


def tiny(a, b, like):
    return a + b * like


@pytest.fixture
def cached(tmp_path, monkeypatch, capsys):
    """Return a function that calls a fresh kernel, and says what it wrote, and the folder of its cache."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))

    def call():
        capsys.readouterr()
        assert compilation.kernel(tiny)(2, 3, 4.0) == 14
        return capsys.readouterr().err

    return call, tmp_path / "cache"


DAMAGES = {
    "emptied": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "garbage": lambda content: b"garbage" * 50,
    "zeros behind": lambda content: content[: len(content) // 2] + bytes(len(content) - len(content) // 2),
    "a number changed": lambda content: content[:-40] + bytes([content[-40] ^ 255]) + content[-39:],
}


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_told_once_and_replaced(damage, ending, cached):
    call, folder = cached
    assert "compiling" in call()
    assert call() == ""
    (path,) = folder.rglob(f"*.{ending}")
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    said = call()
    assert "compiled the tiny pass" in said
    assert call() == ""
    if damage == "emptied":
        assert f"kept in {folder}" in said
        assert "is damaged (EOFError" in said


def test_code_of_another_signature_or_other_sources_is_not_run(cached, monkeypatch):
    """A name can be left over, or given twice, when a folder was full between two writes."""
    call, folder = cached
    call()
    compilation.kernel(tiny)(2.5, 3, 4.0)
    first, second = sorted(folder.rglob("*.nbc"))
    second.write_bytes(first.read_bytes())
    assert compilation.kernel(tiny)(2.5, 3, 4.0) == 14.5
    assert compilation.kernel(tiny)(2.5, 3, 4.0) == 14.5


@pytest.mark.parametrize("step", ["_save_index", "_save_data"])
def test_a_full_folder_stops_nothing(step, cached, monkeypatch):
    call, _ = cached

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(numba.core.caching.IndexDataCacheFile, step, full)
        assert "not kept (OSError: [Errno 28] No space left on device): the next process repeats it" in call()
    call()
    assert call() == ""


def test_a_command_compiles_ahead(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(ux, "extract", lambda x, **call: asked.append((x.dtype, call["backend"])) or x)
    assert compile_command.main(["--dtypes", "float32", "float64"]) == 0
    assert asked == [(torch.float32, "compiled")] * 2 + [(torch.float64, "compiled")] * 2  # without and with terms
    assert "float64: both passes are compiled" in capsys.readouterr().out
