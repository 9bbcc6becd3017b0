"""The core runs with torch, einops and numpy alone, and whatever needs an extra names it in one line."""

import subprocess
import sys
from pathlib import Path

import pytest

import unified_extractor as ux
from tests.support.core_only import PROJECT, normalized
from unified_extractor import extras
from unified_extractor.extras import EXTRAS, MissingExtraError, needed, require
from unified_extractor.named_specs import preset_names

ROOT = Path(__file__).parents[1]
IMPORTED_AS = {"scikit-learn": "sklearn", "pillow": "PIL", "pyyaml": "yaml", "huggingface-hub": "huggingface_hub"}
"""The packages that are imported by another name than they are installed by."""


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    """Return the lines of a process in which nothing but the core's packages can be imported."""
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.core_only"]
    folder = tmp_path_factory.mktemp("core")
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_core_suffices_and_every_door_to_an_extra_says_in_one_line_how_to_install_it(core):
    did = {line.removeprefix("did ") for line in core if line.startswith("did ")}
    families = {
        "ResNet",
        "CIFARResNet",
        "RedNet",
        "VOLO",
        "InternImage",
        "FastNet",
        "MatchedNet",
        "ExtractorNet",
        "SegmentationNet",
    }
    assert did == {*preset_names(), *families, "ux.analysis.cost", "ux.interop.load_weights", "describe"}
    assert "loaded" in core  # and nothing after it: no hidden package was imported
    said = dict(line.removeprefix("said ").split(": ", 1) for line in core if line.startswith("said "))
    extra = {name: text.rpartition("unified-extractor[")[2].partition("]")[0] for name, text in said.items()}
    assert len(said) >= 18
    for name, text in said.items():
        assert f'pip install "unified-extractor[{extra[name]}]"' in text, text
        expected = "interop" if "interop" in name else "compiled" if "compile" in name else "train"
        assert extra[name] == expected, text


def test_the_extras_are_those_of_the_installation():
    stated = PROJECT["optional-dependencies"]
    for extra, packages in EXTRAS.items():
        installed = [normalized(requirement) for requirement in stated[extra]]
        assert [IMPORTED_AS.get(name, name) for name in installed] == list(packages)
    assert stated["all"] == [f"unified-extractor[{','.join(EXTRAS)}]"]
    assert [normalized(requirement) for requirement in PROJECT["dependencies"]] == ["torch", "einops", "numpy"]


def test_a_missing_package_is_named_and_a_broken_one_keeps_its_error(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "timm.models", None)
    with pytest.raises(MissingExtraError, match=r'^this needs timm: pip install "unified-extractor\[interop\]"$'):
        needed("timm.models")
    (tmp_path / "broken_package.py").write_text("import no_such_package_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package_at_all") as error:
        needed("broken_package")
    assert not isinstance(error.value, MissingExtraError)
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "pandas" else object())
    with pytest.raises(MissingExtraError, match=r'^mine needs pandas: pip install "unified-extractor\[train\]"$'):
        require("train", "mine")


def test_modules_that_are_not_imported_yet_are_listed():
    assert {"models", "interop", "training", "visualize"} <= set(dir(ux))
    with pytest.raises(AttributeError, match="has no attribute 'modles'"):
        ux.modles  # noqa: B018
