"""The command ``uniex report``: tables and figures of finished runs, made from their records alone."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich.console import Console
from rich.text import Text

from unified_extractor.results.choosing import chooses, without_test_figures
from unified_extractor.results.class_iou import class_iou
from unified_extractor.results.comparison import Comparison, compare
from unified_extractor.results.effects import effects
from unified_extractor.results.figure_style import variant_colors
from unified_extractor.results.forest import draw_forest
from unified_extractor.results.groups import by_accuracy, groups, title
from unified_extractor.results.html import as_html
from unified_extractor.results.intervals import draw_effects, draw_ranking
from unified_extractor.results.markdown import as_markdown
from unified_extractor.results.naming import chosen, renamed, roles_of
from unified_extractor.results.paired import paired_differences
from unified_extractor.results.record import Record, RecordError, write_rows, write_whole
from unified_extractor.results.report import Report
from unified_extractor.results.sources import find_rows, unfinished_runs
from unified_extractor.results.statements import statements
from unified_extractor.results.statistics import summary
from unified_extractor.results.switches import Switch, read_switches, states
from unified_extractor.results.tables import as_latex, as_rich, formatted, in_words, results_table
from unified_extractor.results.training_settings import differing, told_apart, without_repeats
from unified_extractor.visualize.result_figures import draw_accuracy_cost, draw_curves, draw_gradient_norms

KINDS = ("csv", "md", "tex")
_PAGE = "report.html"
_MOST_CURVES, _MOST_POINTS = 14, 20
"""Largest number of variants in a figure of curves and in one of points: more cannot be told apart, so they get a ranking
only."""
_SOMETIMES = (
    "summary",
    "forest",
    "ranking",
    "differences",
    "paired",
    "effects",
    "class_iou",
    "curves",
    "accuracy_cost",
    "gradient_norms",
)
"""Names of the tables and figures that some groups of runs do not have."""
_COSTS_DIFFER = 1.1
"""Ratio of the largest to the smallest cost above which accuracy is drawn against cost; networks of matched cost differ by
less."""


def main(arguments: Sequence[str]) -> int:
    """Write tables and figures of the records in the sources, and print the tables of comparisons. Return the exit code."""
    parser = _parser()
    given = parser.parse_args(arguments)
    first = given.sources[0]
    output = given.output or (first if first.is_dir() else first.parent) / "report"
    try:
        made = _made(given)
        folders = _write_all(made, given, output)
    except (RecordError, OSError) as error:
        parser.exit(2, f"uniex: error: {error}\n")
    for folder, report in zip(folders, made.reports.values(), strict=True):
        _print(report)
        tables, figures = ",".join(report.tables), ",".join(report.figures)
        print(f"written: {folder}/{{{tables}}}.{{{','.join(KINDS)}}}, {folder}/{{{figures}}}.png")
    if made.page:
        print(f"written: {output / _PAGE}")
    if given.rows is not None:
        print(f"written: {given.rows}, {len(made.finished)} rows")
    for reason in made.left_out:
        print(f"left out: {reason}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("uniex report", description="Make tables and figures from rows of finished runs.")
    parser.add_argument(
        "sources", nargs="+", type=Path, help="run folders, folders with runs below them, files of rows (*.jsonl)"
    )
    parser.add_argument("--output", type=Path, help="folder of what is made (default report in the first source's folder)")
    parser.add_argument("--baseline", metavar="VARIANT", help="what differences are taken from (default the first variant)")
    parser.add_argument(
        "--metric",
        help="what is compared (default test_accuracy, or test_miou; val_accuracy or val_miou for runs that choose)",
    )
    parser.add_argument("--variants", nargs="+", metavar="VARIANT", help="only these, in this order")
    parser.add_argument(
        "--rename",
        nargs="+",
        action="extend",
        default=[],
        metavar="FORMER=NAME",
        help="other names for variants, so that each extractor has one",
    )
    parser.add_argument(
        "--roles",
        nargs="+",
        action="extend",
        default=[],
        metavar="ROLE=VARIANT",
        help="roles such as control=static, a color each in the main figure",
    )
    parser.add_argument(
        "--effects",
        type=Path,
        metavar="SWITCHES.yaml",
        help="also what the switches of a factorial of extractors do, named in a file as `wide view: {generator.view: [1, 7]}`",
    )
    parser.add_argument(
        "--html",
        action="store_true",
        help=f"also {_PAGE}, one page with all tables, figures and settings, which needs no other file",
    )
    parser.add_argument("--gradients", action="store_true", help="also the norms of the stages' gradients over the epochs")
    parser.add_argument(
        "--unfinished", action="store_true", help="also runs that are not finished, marked, with what they have so far"
    )
    parser.add_argument("--rows", type=Path, metavar="FILE.jsonl", help="also write all rows to this new file")
    return parser


class _Made(NamedTuple):
    """The results of a command, before any of them is written."""

    reports: dict[str, Report]
    """The report of each group of runs that can be compared."""
    page: str
    """One page with all reports; empty where none is asked for."""
    finished: list[Record]
    """The rows of runs that are finished."""
    left_out: list[str]
    """Reasons for which runs, or figures of theirs, are not there."""


def _made(given: argparse.Namespace) -> _Made:
    """Read the rows of the sources, and make everything that is asked for."""
    rows, left_out = without_repeats(find_rows(given.sources, unfinished=given.unfinished))
    left_out += unfinished_runs(given.sources, taken=given.unfinished)
    rows, untested = without_test_figures(rows)
    left_out += untested
    if given.variants:
        rows = chosen(rows, given.variants)
    switches = read_switches(given.effects) if given.effects else ()
    named = told_apart(renamed(rows, given.rename))
    found, roles = groups(named), roles_of(named, given.roles)
    colors = variant_colors((row.variant for row in named), by_accuracy(named, given.baseline))
    reports = {
        name: make_report(
            own,
            baseline=given.baseline,
            metric=given.metric,
            switches=switches,
            with_gradients=given.gradients,
            colors=colors,
            roles=roles,
        )
        for name, own in found.items()
    }
    page = as_html({name: (reports[name], found[name]) for name in reports}, left_out) if given.html else ""
    return _Made(reports, page, [row for row in rows if row.planned_epochs is None], left_out)


def _write_all(made: _Made, given: argparse.Namespace, output: Path) -> list[Path]:
    """Write reports, page and rows, and return the folder of each report."""
    if given.rows is not None and given.rows.exists():
        raise FileExistsError(f"{given.rows} exists: rows are never overwritten")
    folders = [output / name if len(made.reports) > 1 else output for name in made.reports]
    for folder in (output, *folders, *([given.rows.parent] if given.rows else ())):
        folder.mkdir(parents=True, exist_ok=True)
    if given.rows is not None:
        write_rows(given.rows, made.finished)
    for folder, report in zip(folders, made.reports.values(), strict=True):
        _write(report, folder)
    (output / _PAGE).unlink(missing_ok=True)
    if made.page:
        write_whole(output / _PAGE, made.page)
    return folders


def make_report(
    rows: Sequence[Record],
    *,
    baseline: str | None = None,
    metric: str | None = None,
    switches: Sequence[Switch] = (),
    with_gradients: bool = False,
    colors: Mapping[str, Any] | None = None,
    roles: Mapping[str, str] | None = None,
) -> Report:
    """Return the tables and figures of one group. Differences without two seeds have no interval, and the notes say so.

    Runs that are not finished stand in the table of results and among the curves alone: they have no test figures.
    The ``metric`` is by default the test accuracy, in segmentation the test mIoU, or that of validation where all runs are of a budget
    that chooses. ``colors`` gives every variant the color that it has in other groups' figures too; ``roles`` gives variants a role, such
    as ``control``, by which the main figure colors them.

    Raises:
        RecordError: the rows cannot be compared, the baseline is none of their variants, or a row lacks the metric; with
            ``switches``, the rows are no factorial design of them; with ``with_gradients``, a row has no gradient norms.
    """
    untested = chooses(rows[0].budget)
    metric = metric or f"{'val' if untested else 'test'}_{rows[0].score}"
    if colors is None:
        colors = variant_colors((row.variant for row in rows), by_accuracy(rows, baseline))
    about = title(rows)
    report = Report(
        tables={"results": results_table(rows)},
        captions={
            "results": f"{about}: {len(rows)} run{'s' * (len(rows) > 1)}" + "; they choose, so no test figure is given" * untested
        },
        figures={"curves": draw_curves(rows, colors=colors)} if len({row.variant for row in rows}) <= _MOST_CURVES else {},
    )
    if with_gradients:
        report.figures["gradient_norms"] = draw_gradient_norms(rows, colors=colors)
    if finished := [row for row in rows if row.planned_epochs is None]:
        _compare(report, finished, compare(finished, baseline=baseline, metric=metric), roles)
        _draw(report, finished, metric, colors, states(finished, switches) if switches else None)
    if (per_class := class_iou(finished)) is not None:
        report.tables["class_iou"] = per_class
        report.captions["class_iou"] = f"{about}: intersection over union of each class, means over seeds"
    if switches:
        table = report.tables["effects"] = effects(finished, switches, metric)
        report.captions["effects"] = (
            f"{about}: what a switch adds to {in_words(metric)}, averaged over the others; a x b: by how much more b adds where a is on; "
            f"least squares, each 95 % interval by itself, {len(table)} comparisons made; p corrected for their number by Holm's method"
        )
        report.figures["effects"] = draw_effects(table, about, metric)
    return report


def _compare(report: Report, rows: Sequence[Record], comparison: Comparison, roles: Mapping[str, str] | None) -> None:
    """Add the tables that compare the variants of finished runs, and the main figure."""
    about, metric, called = title(rows), comparison.metric, in_words(comparison.metric)
    unlike = f"; not trained alike: {', '.join(map(in_words, fields))} differ" if (fields := differing(rows)) else ""
    report.tables["summary"] = summary(rows, metric)
    report.captions["summary"] = (
        f"{about}: means over seeds; ± is half the 95 % t-interval of {called}, absent with one seed{unlike}"
    )
    if comparison.others:
        report.tables["differences"] = comparison.table()
        report.captions["differences"] = f"{about}: mean {called} minus that of {comparison.baseline}{unlike}"
        report.notes["differences"] = statements(comparison)
    if comparison.compared:
        report.figures["forest"] = draw_forest(comparison, about, roles=roles)
    paired = paired_differences(rows, baseline=comparison.baseline, metric=metric)
    if len(paired):
        report.tables["paired"] = paired
        count = f"{len(paired)} comparison{'s' * (len(paired) > 1)} made"
        report.captions["paired"] = (
            f"{about}: {called} minus that of {comparison.baseline}, paired by seed; each 95 % t-interval by itself, {count}; "
            f"p of a t-test, corrected for their number by Holm's method{unlike}"
        )


def _draw(report: Report, rows: Sequence[Record], metric: str, colors: Mapping[str, Any], switches: pd.DataFrame | None) -> None:
    """Add the figures of the variants' means; the states of their ``switches`` are drawn beside the ranking."""
    report.figures["ranking"] = draw_ranking(rows, metric, colors=colors, switches=switches)
    costs = report.tables["summary"]["multiply_adds"]
    if len(costs) <= _MOST_POINTS and costs.max() > _COSTS_DIFFER * costs.min():
        report.figures["accuracy_cost"] = draw_accuracy_cost(rows, metric, colors=colors)


def _write(report: Report, folder: Path) -> None:
    for name in _SOMETIMES:  # an earlier report may have had some
        for kind in (*KINDS, "png"):
            (folder / f"{name}.{kind}").unlink(missing_ok=True)
    for name, table in report.tables.items():
        text, caption = formatted(table), report.captions[name]
        table.to_csv(folder / f"{name}.csv", index=False)
        notes = report.notes.get(name, [])
        (folder / f"{name}.md").write_text(as_markdown(text, caption, notes))
        (folder / f"{name}.tex").write_text(as_latex(text, ". ".join([caption, " ".join(notes)]) if notes else caption))
    for name, figure in report.figures.items():
        figure.savefig(folder / f"{name}.png", dpi=130)


def _print(report: Report) -> None:
    """Print the runs or, with several seeds, the tables that compare the variants, with what they mean."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=1000)
    several = "summary" in report.tables and (report.tables["summary"]["seeds"] > 1).any()
    names = ["summary", "differences"] if several else ["results"]
    tested = report.tables["results"].get("test_accuracy")
    if several and tested is not None and tested.isna().any():  # runs that are not finished stand there alone
        names.append("results")
    for name in (*names, "effects"):
        if name in report.tables:
            console.print(as_rich(formatted(report.tables[name]), report.captions[name]))
            for note in report.notes.get(name, []):
                console.print(Text(note))
