"""A report as one HTML file, which needs nothing but itself: tables, figures and the settings of the runs."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from matplotlib import rc_context
from matplotlib.figure import Figure

import unified_extractor
from unified_extractor.results.groups import title
from unified_extractor.results.record import Record
from unified_extractor.results.report import Report
from unified_extractor.results.run_settings import extractors, settings
from unified_extractor.results.tables import formatted

SECTIONS: tuple[tuple[str, Sequence[str], Sequence[str]], ...] = (
    ("Comparison", ("forest",), ("differences", "paired")),
    ("Variants", ("ranking", "accuracy_cost"), ("summary", "class_iou")),
    ("Switches", ("effects",), ("effects",)),
    ("Training", ("curves", "gradient_norms"), ()),
    ("Runs", (), ("results",)),
)
"""The headings of a group, and the names of the figures and tables below each."""
_ALT = {
    "forest": "differences from the baseline with simultaneous intervals",
    "ranking": "means of the variants with intervals, the best on top",
    "accuracy_cost": "accuracy against multiply-adds",
    "effects": "effects of the switches with intervals",
    "curves": "learning curves",
    "gradient_norms": "norms of the stages' gradients over the epochs",
}
"""The words for each figure, for people who do not see it."""
_PAGE = Path(__file__).parent / "page"


def as_html(groups: Mapping[str, tuple[Report, Sequence[Record]]], left_out: Sequence[str] = ()) -> str:
    """Return the page of the groups of a report, each with its rows, by a name for its address. The same rows give the same page.

    Args:
        groups: reports with the rows that they were made of, by name.
        left_out: texts about the runs that are in no group.
    """
    rows = [row for _, own in groups.values() for row in own]
    runs, first, last = len(rows), min(row.finished for row in rows)[:10], max(row.finished for row in rows)[:10]
    template = Environment(loader=FileSystemLoader(_PAGE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return template.get_template("report.html").render(
        style=(_PAGE / "report.css").read_text(),
        about=f"{runs} run{'s' * (runs > 1)}, finished {first}{f' to {last}' * (first != last)}",
        groups=[_group(name, *group) for name, group in groups.items()],
        left_out=left_out,
        version=unified_extractor.__version__,
    )


def _group(name: str, report: Report, rows: Sequence[Record]) -> dict[str, Any]:
    alike, unlike = settings(rows)
    sections = [
        {
            "heading": heading,
            "figures": [
                {"address": _address(report.figures[one]), "alt": f"{title(rows)}: {_ALT[one]}"}
                for one in figures
                if one in report.figures
            ],
            "tables": [
                {"text": formatted(report.tables[one]), "caption": report.captions[one], "notes": report.notes.get(one)}
                for one in tables
                if one in report.tables
            ],
        }
        for heading, figures, tables in SECTIONS
    ]
    return {
        "name": name,
        "title": title(rows),
        "sections": [section for section in sections if section["figures"] or section["tables"]],
        "settings": {"alike": alike, "text": unlike, "caption": "In what the variants differ"},
        "extractors": extractors(rows),
    }


def _address(figure: Figure) -> str:
    """Return a figure as the address of an SVG inside the page."""
    file = io.BytesIO()
    with rc_context({"svg.hashsalt": "unified_extractor"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
