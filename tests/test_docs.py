"""Every piece of Python in the README and the documentation runs, page by page, in the order in which a newcomer reads."""

import re
from pathlib import Path

import pytest
import torch

import unified_extractor as ux
from tests.support.official_states import official_state
from unified_extractor.named_specs import preset_names
from unified_extractor.recipes import recipe_file

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PIECE = re.compile(r"(<!-- not run: [^\n]+ -->\n)?```python\n(.*?)```", re.DOTALL)


def pieces(page):
    """Return the Python of a page that runs; above what does not, stands why."""
    return [code for left_out, code in PIECE.findall(page.read_text()) if not left_out]


SITE = [README, *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.parent.name != "generated")]
PAGES = [page for page in SITE if pieces(page)]


def test_pages_have_python():
    assert {"README.md", "start.md", "own_extractor.md", "pytorch_loop.md", "extend.md", "export.md"} <= {
        page.name for page in PAGES
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if page.stem == "official_weights":
        _write_official_file(tmp_path / "d1_224_84.2.pth.tar")
    names: dict[str, object] = {}
    for piece in pieces(page):
        exec(piece, names)


def test_the_readme_has_at_most_a_thousand_words_and_every_preset():
    text = README.read_text()
    assert len(text.split()) <= 1000
    assert not {name for name in preset_names() if f"`{name}" not in text}


def test_the_table_of_backends_has_every_backend():
    table = (ROOT / "docs/concepts/backends.md").read_text().split("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(ux.backends())


COMMANDS = [command for page in SITE for command in re.findall(r"uniex [a-z]+ [^`\n]*", page.read_text())]


def test_commands_of_the_documentation_name_recipes_and_files_that_exist():
    named = [name for command in COMMANDS for name in re.findall(r"(?:--config|uniex sweep) ([\w./]+)", command)]
    own = {"FILE", "NAME", "mine.yaml", "grid.yaml"}  # the reader's, and those of runs
    named = [name for name in named if name not in own and not name.startswith("runs/")]
    assert len(named) >= 8
    for name in named:
        assert (ROOT / name).is_file() or recipe_file(name).is_file(), name


def test_the_reference_has_every_public_name():
    text = "\n".join(page.read_text() for page in (ROOT / "docs/reference").glob("*.md"))
    whole = set(re.findall(r"automodule:: unified_extractor\.(\w+)", text))  # of these every public name
    named = set(re.findall(r"auto(?:class|function):: (?:unified_extractor\.)?(\w+)", text))
    assert not set(ux.__all__) - named - whole
    assert set(ux.visualize.__all__) <= named


def _write_official_file(file):
    state = official_state(ux.models.volo_d1(), "volo", ("attn.", "mlp."))
    torch.save({"state_dict": state | {"pos_embed": state["pos_embed"].permute(0, 2, 3, 1).contiguous()}}, file)
