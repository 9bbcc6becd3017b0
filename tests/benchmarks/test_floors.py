"""The page of what binds the Triton kernels: the committed one is made of the committed files, and its numbers are those of a hand."""

import json
from pathlib import Path

import pytest

from unified_extractor.benchmarks import floors
from unified_extractor.commands import bench

FOLDER = Path(__file__).parents[2] / "benchmarks"
CODE, GPU = (json.loads((FOLDER / name).read_text()) for name in ("triton_code.json", "gpu.json"))


def test_the_committed_page_is_made_of_the_committed_files():
    assert (FOLDER / "floors.md").read_text() == floors.markdown(CODE, GPU)


def test_a_row_is_what_a_hand_counts():
    """An involution of 64 channels: 128 x 64 x 56 x 56 outputs; a kernel of 49 taps for each of four groups."""
    code = {"now": {"kernels": [{"call": "involution", "pass": which, "instructions": 50.0} for which in floors.PASSES]}}
    for row in code["now"]["kernels"]:
        row |= {"triton": "3.8.0", "dtype": "bfloat16", "layout": "channels_last"}
    code["now"]["kernels"].append(code["now"]["kernels"][1] | {"triton": "3.10.0"})
    code["now"]["kernels"].append(code["now"]["kernels"][0] | {"triton": "3.10.0", "instructions": 60.0})
    gpu = {"batch": 128, "machine": {"peak_bytes_per_second": 3e12}, "cases": []}
    row = next(line for line in floors.markdown(code, gpu).splitlines() if line.startswith("| involution 64x56x56 | forward"))
    image, kernel = 128 * 64 * 56 * 56, 128 * 4 * 49 * 56 * 56
    memory, issue = 1e6 * 2 * (2 * image + kernel) / 3e12, 1e6 * 60 * image / (128 * 132 * 1.98e9)
    assert row == f"| involution 64x56x56 | forward | {memory:.0f} | {issue:.0f} | - | HBM | - | - |"


def test_without_its_files_the_command_says_which_it_needs(tmp_path, capsys):
    with pytest.raises(SystemExit):
        bench.main(["floors", "--output", str(tmp_path / "floors.md")])
    assert "triton_code.json and gpu.json beside --output" in capsys.readouterr().err
