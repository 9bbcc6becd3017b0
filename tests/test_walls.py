"""Who may import whom: spec <- ops <- layers <- models <- interop, and what stands beside them; all may import ``names`` and ``extras``."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from unified_extractor.extras import EXTRAS

PACKAGE = Path(__file__).parents[1] / "unified_extractor"
ALLOWED = {
    "names": set(),
    "extras": set(),
    "recipes": set(),
    "config_files": {"recipes"},
    "options": set(),
    "config_base": set(),
    "spec": {"config_base"},
    "task": set(),
    "presets": {"spec"},
    "named_specs": {"spec", "presets"},
    "description": {"spec", "profiling"},
    "ops": {"spec", "ops"},
    "layers": {"spec", "named_specs", "ops", "layers"},
    "models": {"spec", "task", "presets", "named_specs", "ops", "layers", "profiling", "models"},
    "interop": {"options", "spec", "task", "presets", "ops", "layers", "models", "interop"},
    "profiling": {"spec", "named_specs", "ops", "layers", "profiling"},
    "analysis": {"profiling"},
    "results": {"options", "spec", "results"},
    "visualize": {"spec", "description", "ops", "layers", "profiling", "results", "visualize"},
    "data": {"recipes", "task", "data"},
    "training": {
        "config_files",
        "options",
        "spec",
        "named_specs",
        "task",
        "interop",
        "data",
        "training",
        "profiling",
        "results",
        "visualize",
    },
    "benchmarks": {"spec", "presets", "data", "ops", "layers", "models", "profiling", "results", "training", "benchmarks"},
    "sweeps": {"recipes", "spec", "named_specs", "data", "training", "profiling", "results", "sweeps"},
    "commands": {
        "recipes",
        "spec",
        "description",
        "named_specs",
        "presets",
        "layers",
        "data",
        "training",
        "profiling",
        "results",
        "visualize",
        "benchmarks",
        "sweeps",
        "commands",
    },
    "__main__": {"config_files", "training", "commands"},
    "__init__": {"spec", "task", "presets", "ops", "layers", "models", "interop", "analysis", "data", "training", "visualize"},
}
STANDARD_LIBRARY_ONLY = {"extras", "names", "recipes", "options", "config_base", "spec", "presets", "named_specs", "task"}
FOREIGN = {
    "einops",
    "jsonargparse",
    "lightning",
    "matplotlib",
    "numpy",
    "pandas",
    "pydantic",
    "rich",
    "scipy",
    "timm",
    "torch",
    "torchvision",
    "yaml",
}


def imports(path):
    """The dotted names of all modules a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms():
    for path in PACKAGE.rglob("*.py"):
        yield path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path


def test_every_room_imports_only_what_it_may():
    for room, path in rooms():
        for name in imports(path):
            top, *rest = name.split(".")
            if top == "unified_extractor" and rest:
                allowed = (
                    ALLOWED[room] | {"names", "extras"} | ({"presets"} if rest[0] == "presets" and room == "__init__" else set())
                )
                assert rest[0] in allowed, f"{path.relative_to(PACKAGE)} may not import {name}"


def test_the_spec_needs_the_standard_library_only():
    for room, path in rooms():
        if room in STANDARD_LIBRARY_ONLY:
            assert not {name.split(".")[0] for name in imports(path)} & FOREIGN, path


def test_a_backend_imports_neither_the_reference_nor_another_backend():
    backends = PACKAGE / "ops" / "backends"
    for path in backends.rglob("*.py"):
        own = ".".join(["unified_extractor.ops.backends", path.relative_to(backends).parts[0].removesuffix(".py")])
        for name in imports(path):
            assert "reference" not in name.split("."), f"{path} imports {name}"
            assert not name.startswith("unified_extractor.ops.backends.") or name.startswith(own), f"{path} imports {name}"


def test_no_modules_import_each_other_in_a_circle():
    """Imports inside functions count too."""
    paths = {".".join((PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts)): path for _, path in rooms()}
    paths = {name.removesuffix(".__init__"): path for name, path in paths.items()}

    def module(name):
        return name if name in paths else name.rpartition(".")[0]

    graph = {name: {module(other) for other in imports(path)} & paths.keys() - {name} for name, path in paths.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which shows the circle


def test_nothing_imports_experiments():
    assert not [path for _, path in rooms() for name in imports(path) if name.split(".")[0] == "experiments"]


def test_tests_share_helpers_through_support_only():
    for path in Path(__file__).parent.rglob("*.py"):
        for name in imports(path):
            assert name.split(".")[0] != "tests" or name.startswith("tests.support."), f"{path} imports {name}"


def test_importing_the_package_brings_nothing_that_only_some_need():
    code = "import sys, unified_extractor; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    loaded = {name.split(".")[0] for name in modules}
    slow = {f"unified_extractor.{name}" for name in ("analysis", "interop", "models", "profiling", "training", "visualize")}
    assert not slow & set(modules)
    brought_by_torch = {"filelock", "jinja2"}
    optional = {package for packages in EXTRAS.values() for package in packages} - brought_by_torch
    assert {"numba", "lightning", "timm"} <= optional
    assert not optional & loaded


@pytest.mark.thorough
def test_every_command_imports_without_what_only_some_systems_have():
    """Modules of POSIX alone are taken away, as on Windows; Linux's and macOS's promises are in the README."""
    missing = ["crypt", "fcntl", "grp", "nis", "posix_ipc", "pty", "pwd", "resource", "spwd", "syslog", "termios", "tty"]
    modules = [name.stem for name in (PACKAGE / "commands").glob("[a-z]*.py")]
    code = f"import sys; sys.modules.update(dict.fromkeys({missing!r}))\nimport unified_extractor.training.cli.training_cli\n"
    code += "\n".join(f"import unified_extractor.commands.{name}" for name in modules)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
