"""Bits of test images, and runs that look at none."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support.rows import ROW, row
from unified_extractor.commands.report import main as report
from unified_extractor.results.choosing import chooses, without_test_figures
from unified_extractor.results.correct_images import packed, unpacked
from unified_extractor.results.record import write_rows


def test_flags_come_back_and_the_first_image_is_the_highest_bit():
    flags = np.random.default_rng(0).random(10_001) < 0.6
    text = packed(flags)
    assert len(text) < 1700
    assert np.array_equal(unpacked(text, 10_001), flags)
    assert packed([True, False, True]) == "oA=="
    with pytest.raises(ValueError, match="of 9 images must be 2 bytes, got 1"):
        unpacked("oA==", 9)


def test_rows_of_runs_that_choose_lose_their_test_figures_and_no_other_row_does():
    rows = [row(budget="screen"), row(budget="cpu"), row("later", budget="gpu_screen", test_images=0)]
    nothing = {"test_accuracy": None, "test_top5_accuracy": None, "test_loss": None, "test_calibration_error": None}
    rows[2] = replace(rows[2], **nothing)
    found, notes = without_test_figures(rows)
    assert found == [replace(rows[0], test_images=0, **nothing), *rows[1:]]
    assert notes == ["the test figures of 1 run of the budget screen, by which something is chosen"]
    assert not any(map(chooses, ("", "cpu", "gpu", "screened")))


def test_a_report_of_runs_that_choose_has_no_test_figure_and_says_so(tmp_path, capsys):
    rows = [row(variant, seed, budget="screen", val_accuracy=0.5 + 0.1 * seed) for variant in "ab" for seed in (0, 1)]
    write_rows(tmp_path / "rows.jsonl", rows)
    assert report([str(tmp_path / "rows.jsonl")]) == 0
    assert "left out: the test figures of 4 runs of the budget screen, by which something is chosen" in capsys.readouterr().out
    for path in (tmp_path / "report").glob("*.md"):
        assert "test accuracy" not in path.read_text(), path
        assert "test loss" not in path.read_text(), path
    assert "they choose, so no test figure is given" in (tmp_path / "report" / "results.md").read_text()
    assert "| a | 2 | 12,345 | 1,234,567 | 55.00% |" in (tmp_path / "report" / "summary.md").read_text()


def test_a_finished_run_that_tested_has_test_figures():
    with pytest.raises(ValueError, match="must have test_accuracy"):
        replace(ROW, test_accuracy=None)
