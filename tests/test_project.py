"""What stands around the code is of one version and one owner, and names files, tests and targets that are there."""

import re
from pathlib import Path

import pytest
import yaml

import unified_extractor
from tests.support.core_only import PROJECT

ROOT = Path(__file__).parents[1]
REPOSITORY = PROJECT["urls"]["Repository"]
OTHERS = {".git", ".venv", "build", "runs", "data"}
TEXTS = [
    path
    for top in ROOT.iterdir()
    if top.name not in OTHERS
    for path in ([top] if top.is_file() else top.rglob("*"))
    if path.suffix in (".md", ".toml", ".yml", ".yaml", ".cff", ".py") and not OTHERS & set(path.relative_to(ROOT).parts)
]


def test_links_to_the_repository_are_those_of_the_stated_owner():
    owner = re.fullmatch(r"https://github\.com/([\w-]+)/unified_extractor", REPOSITORY)
    assert owner
    assert len(TEXTS) > 300
    for path in TEXTS:
        for found in re.findall(r"github\.com/([\w-]+)/unified_extractor", path.read_text(encoding="utf-8")):
            assert found == owner[1], path
    for name, url in PROJECT["urls"].items():
        assert url.startswith((REPOSITORY, f"https://{owner[1].lower()}.github.io/unified_extractor")), name


def test_the_version_is_the_same_everywhere():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == unified_extractor.__version__
    heading = re.search(r"^## (\d\S*?)(,| |$)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heading
    assert heading[1] == unified_extractor.__version__


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_files_and_targets_that_a_page_names_are_there(page):
    text = (ROOT / page).read_text()
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"`?make ([a-z]+)`?", text):
        assert target in targets, target
    for name in re.findall(r"`((?:unified_extractor|tests|configs|experiments|docs|\.github)/[\w./]+)`", text):
        assert (ROOT / name).exists() or "NAME" in name or "mine" in name, name
    for name in re.findall(r"\]\((?!https)([^)#]+)", text):
        assert (ROOT / name).exists(), name


def test_workflows_and_templates_are_yaml_and_run_targets_that_are_there():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    files = [*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml"]
    assert {file.stem for file in files} >= {"tests", "release", "docs", "bug", "operator"}
    for file in files:
        assert yaml.safe_load(file.read_text())
        for command in re.findall(r"run: make ([a-z ]+)$", file.read_text(), re.MULTILINE):
            assert set(command.split()) <= set(targets)
        for path in re.findall(r"tests/[\w./]+", file.read_text()):
            assert (ROOT / path).exists(), path
