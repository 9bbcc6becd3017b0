"""Tables of text: what people read is what the rows say, and neither Markdown nor LaTeX can break on it."""

import io
import re
from dataclasses import replace

import pandas as pd
import pytest
from rich.console import Console

from tests.support.rows import ROW, row
from unified_extractor.results.markdown import as_markdown
from unified_extractor.results.paired import paired_differences
from unified_extractor.results.record import RecordError
from unified_extractor.results.statistics import summary
from unified_extractor.results.tables import as_latex, as_rich, formatted, results_table


def test_results_have_a_line_a_run_with_its_own_values():
    rows = [row("a", 3), row("b", 4, test_accuracy=0.5)]
    table = results_table(rows)
    for line, expected in zip(table.to_dict("records"), rows, strict=True):
        assert line == {field: getattr(expected, field) for field in line}
    text = formatted(table)
    assert text.to_dict("records")[1] == {
        "variant": "b",
        "seed": "4",
        "parameters": "12,345",
        "multiply-adds": "1,234,567",
        "val accuracy": "97.12%",
        "test accuracy": "50.00%",
        "test top-5 accuracy": "99.87%",
        "test loss": "0.1250",
        "test calibration error": "3.14%",
        "s/epoch": "1.25",
        "peak memory (MiB)": "300",
    }


def test_runs_of_a_variant_and_seed_may_stand_in_results_but_groups_may_not():
    assert len(results_table([row(), replace(row(), run="another-run")])) == 2
    with pytest.raises(RecordError, match="cannot be compared"):
        results_table([row(), row(budget="cpu")])


def test_top_5_is_shown_only_where_there_is_one():
    without = row(test_top5_accuracy=None)
    assert "test_top5_accuracy" not in results_table([without])
    assert formatted(results_table([without, row(seed=1)]))["test top-5 accuracy"].tolist() == ["-", "99.87%"]


def test_an_interval_of_one_seed_is_absent():
    rows = [row("a", 0, test_accuracy=0.9), row("a", 1, test_accuracy=0.92), row("b", 0)]
    assert formatted(summary(rows))["± (points)"].tolist() == ["12.71", "-"]
    assert formatted(summary(rows, "test_loss"))["±"].tolist() == ["0.0000", "-"]


def test_differences_are_signed_points_with_their_interval():
    rows = [row(variant, seed, test_accuracy=0.9 + 0.01 * seed * (variant == "b")) for variant in "ab" for seed in range(2)]
    assert formatted(paired_differences(rows)).to_dict("records") == [
        {"variant": "b", "pairs": "2", "difference (points)": "+0.50", "95 % interval": "-5.85 to +6.85", "p (Holm)": "0.5000"}
    ]


def test_markdown_has_as_many_cells_a_line_whatever_the_text():
    text = pd.DataFrame({"a|b": ["x", "|"], "c": ["1", "2"]})
    first, blank, *lines = as_markdown(text, "about it").splitlines()
    assert (first, blank) == ("about it", "")
    assert lines == [r"| a\|b | c |", "| :-- | --: |", "| x | 1 |", r"| \| | 2 |"]
    assert as_markdown(text).splitlines() == lines
    assert as_markdown(text, notes=["one", "two"]).splitlines() == [*lines, "", "* one", "* two"]


def test_latex_is_balanced_and_escaped():
    nasty = r"a_b %50 & {c} #1 $x$ \cmd ~ ^ ±"
    text = formatted(results_table([replace(ROW, variant=nasty), row("plain")]))
    latex = as_latex(text, nasty)
    for rule in ("toprule", "midrule", "bottomrule"):
        assert latex.count(rf"\{rule}") == 1
    assert re.findall(r"\\begin{(\w+)}", latex) == ["table", "tabular"]
    assert re.findall(r"\\end{(\w+)}", latex) == ["tabular", "table"]
    assert latex.isascii()
    assert "96.25\\%" in latex
    bare = re.sub(r"\\[&%$#_{}]", "", latex)
    assert not set("%#_~^") & set(bare)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") == 4  # around \pm, in caption and cell
    assert latex.count(r"a\_b \%50 \& \{c\} \#1 \$x\$ \textbackslash{}cmd \textasciitilde{} \textasciicircum{} $\pm$") == 2
    for line in bare.split(r"\toprule")[1].split(r"\bottomrule")[0].splitlines():
        if line.endswith(r"\\"):
            assert line.count("&") == len(text.columns) - 1


def test_a_terminal_shows_names_as_they_are():
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(as_rich(formatted(results_table([row("[bold]x[/bold]")])), "[red]caption"))
    shown = console.export_text()
    assert "[bold]x[/bold]" in shown
    assert "[red]caption" in shown
