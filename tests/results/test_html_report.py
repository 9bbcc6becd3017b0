"""``uniex report --html``: one page with all tables, figures and settings, which needs nothing but itself."""

import base64
import html
import json
import re
import shutil
import subprocess

import pytest

from tests.support.rows import row, segmented
from unified_extractor.__main__ import main
from unified_extractor.commands.report import _SOMETIMES, make_report
from unified_extractor.results.html import SECTIONS, as_html
from unified_extractor.results.record import write_rows
from unified_extractor.results.run_settings import settings
from unified_extractor.results.tables import formatted

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VARIANTS = {"convolution": 0.91, "<b>involution</b> & a_long_name_with_many_words": 0.94, "unified": 0.96}


def rows_of(**fields):
    return [
        row(variant, seed, test_accuracy=top - 0.01 * seed, multiply_adds=1_000_000 * (1 + place), **fields)
        for place, (variant, top) in enumerate(VARIANTS.items())
        for seed in range(3)
    ]


def cells(page):
    return [html.unescape(text) for text in re.findall(r"<t[hd](?: [^>]*)?>(.*?)</t[hd]>", page)]


def test_every_table_and_figure_of_a_report_has_a_place_on_the_page():
    placed = {name for _, figures, tables in SECTIONS for name in (*figures, *tables)}
    assert placed == {*_SOMETIMES, "results"}


def test_the_page_has_the_values_of_all_tables_and_all_figures():
    rows = rows_of()
    report = make_report(rows)
    page = as_html({"digits": (report, rows)}, ["runs/x: not <finished>"])
    shown = cells(page)
    for name, table in report.tables.items():
        text = formatted(table)
        for value in [*text.columns, *text.to_numpy().ravel()]:
            assert str(value) in shown, name
        assert report.captions[name] in html.unescape(page)
    for note in report.notes["differences"]:
        assert html.unescape(note) in html.unescape(page)
    pictures = [base64.b64decode(one) for one in re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)]
    assert len(pictures) == len(report.figures) == 4
    assert all(b"<svg" in one for one in pictures)
    assert html.escape("runs/x: not <finished>") in page
    assert page == as_html({"digits": (make_report(rows), rows)}, ["runs/x: not <finished>"])


def test_settings_are_those_of_all_runs_and_those_that_differ():
    rows = [*rows_of(), row("other", epochs=6, learning_rate=0.01, commit="c" * 40, dirty=True)]
    alike, unlike = settings(rows)
    assert alike["batch size"] == "64"
    assert alike["network"] == "ExtractorNet"
    assert "initial weights" not in alike
    table = unlike.set_index("variant")
    assert table["epochs"].to_dict() == {**dict.fromkeys(VARIANTS, "2"), "other": "6"}
    assert table["seeds"]["other"] == "0"
    assert table["seeds"]["unified"] == "0, 1, 2"
    assert table["commit"]["other"] == "cccccccccc with changes"


def test_the_command_writes_one_page_with_the_configurations_of_the_runs(tmp_path, capsys):
    for number, record in enumerate([row(), segmented()]):
        (folder := tmp_path / "runs" / f"version_{number}").mkdir(parents=True)
        write_rows(folder / "record.json", [record])
        (folder / "config.yaml").write_text(f"seed_everything: {1000 + number}  # <of run {number}>\n")
    assert main(["report", str(tmp_path / "runs"), "--html"]) == 0
    file = tmp_path / "runs" / "report" / "report.html"
    assert f"written: {file}\n" in capsys.readouterr().out
    page = file.read_text()
    for number in range(2):
        assert f"seed_everything: {1000 + number}  # &lt;of run {number}&gt;" in page
    assert re.findall(r'<main id="([^"]+)"', page) == re.findall(r'<a href="#([^"]+)"', page) == ["digits", "camvid"]
    assert "channels: depthwise" not in page
    assert "source: generated" in page
    assert not re.search(r"(src|href)=[\"'](?!data:|#)|https?:|@import|<script", page)
    assert main(["report", str(tmp_path / "runs")]) == 0
    assert not file.exists()  # it would tell of an earlier report


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_fits_a_phone(tmp_path):
    rows = rows_of(commit="c" * 40, versions={"a_package_of_a_long_name" * 3: "1.0"})
    page = json.dumps(as_html({"digits": (make_report(rows), rows)})).replace("<", "\\u003c")
    (tmp_path / "phone.html").write_text(
        f"""<iframe id="phone" style="width: 390px; height: 800px; border: 0"></iframe><script>
        const phone = document.querySelector("#phone");
        phone.onload = () => {{ const {{ scrollWidth, clientWidth }} = phone.contentDocument.documentElement;
          phone.title = `${{scrollWidth}} of ${{clientWidth}}`; }};
        phone.srcdoc = {page};
        </script>"""
    )
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile", "--dump-dom"]
    dom = subprocess.run(
        [*command, f"file://{tmp_path}/phone.html"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    ((needed, there),) = re.findall(r'<iframe[^>]* title="(\d+) of (\d+)"', dom)
    assert 300 < int(needed) == int(there) <= 390
