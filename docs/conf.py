"""The configuration of the documentation, which ``make docs`` builds: Sphinx with MyST and furo.

Sphinx reads docstrings by importing the package, so defaults are the true ones, and turns every warning into an error. Its sources are the
files of the repository where they lie, so that links between them work on the site and on the pages of a code host alike.
"""

import sys
from pathlib import Path
from typing import Any

import unified_extractor

sys.path.insert(0, str(Path(__file__).parent))
from generated_pages import write_pages

project, author, release = "unified_extractor", "The unified_extractor authors", unified_extractor.__version__
project_copyright = author
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "experiments/README.md",
    "experiments/*/README.md",
    "experiments/*/results/*.md",
    "benchmarks/*.md",
    "paper_notes.md",
]
exclude_patterns = [".*", "build", "runs", "data", "tests", "unified_extractor", "dist"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx-mathjax-offline",  # equations need no network
    "sphinx_copybutton",
]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_ivar = True
maximum_signature_line_length = 80
add_module_names = False

html_theme = "furo"
html_title = "unified_extractor"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_extra_path = ["site_root"]  # an index.html that leads to the first page
html_show_sourcelink = False
templates_path: list[str] = []


def setup(app: Any) -> None:
    """Write the generated pages before the sources are read."""
    write_pages(Path(__file__).parent / "generated")
    app.connect("source-read", _add_title)
    app.connect("autodoc-process-docstring", _remember, priority=1)  # before napoleon, which is 500
    app.connect("autodoc-process-docstring", _restore, priority=900)


def _add_title(app: object, page: str, source: list[str]) -> None:
    """Write a title over a page that has none: the benchmarks' tables, as the command writes them."""
    if not source[0].lstrip().startswith("# "):
        source[0] = f"# Measured: {page.rpartition('/')[2].replace('_', ' ')}\n\n{source[0]}"
    if "/results/" in page:  # a README links to it; the contents do not
        source[0] = f"---\norphan: true\n---\n{source[0]}"


_fields: dict[str, list[str]] = {}


def _remember(app: object, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Keep the docstring of a field as it is: napoleon takes what stands before a colon in its first line for a type."""
    if what == "attribute":
        _fields[name] = list(lines)


def _restore(app: object, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Write the docstring of a field back."""
    if what == "attribute":
        lines[:] = _fields.pop(name, lines)
