"""Every measured number of the README is that of a committed file."""

import csv
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SPEED = [
    ("cpu", "involution 64x56x56", "unfold"),
    ("cpu", "DCNv2 64x56x56", "torchvision"),
    ("cpu", "DCNv4 64x56x56", "grid_sample"),
    ("cpu", "outlook 192x28x28", "unfold-matmul-fold"),
    ("cpu", "RedNet-26 step 3x112x112", "unfold"),
    ("gpu", "involution 64x56x56 bfloat16", "compiled unfold"),
    ("gpu", "DCNv3 64x56x56 bfloat16", "compiled grid_sample"),
]
"""The file, the case and the baseline of each line of the table of speed."""


def test_the_table_of_speed_has_the_benchmarks_medians():
    table = README.partition("## Speed")[2].partition("\n## ")[0]
    lines = re.findall(r"(?m)^\| \w[^|]+\| ([\d.]+) \| ([\d.]+) [^|]+\| ([\d.]*) ?\|$", table)
    assert len(lines) == len(SPEED)
    for (file, case, baseline), texts in zip(SPEED, lines, strict=True):
        cases = json.loads((ROOT / f"benchmarks/{file}.json").read_text())["cases"]
        candidates = next(one for one in cases if one["name"] == case)["candidates"]
        for name, text in zip(("unified_extractor", baseline, "depthwise"), texts, strict=True):
            if text:
                assert _rounds_to(candidates[name]["forward_backward_ms"]["median"], text), (case, name)


@pytest.mark.parametrize(
    ("rows", "variant", "texts"),
    [
        ("parents-gpu-cifar10_jpeg_all", "involution", "0.73 points (+0.13 to +1.33)"),
        ("parents-gpu-cifar10_jpeg_all", "depthwise_convolution", "0.78 points behind (+0.18 to +1.38)"),
        ("finals-cpu-cifar10_jpeg", "involution", "it was 8.0 points"),
    ],
)
def test_differences_are_those_of_the_reports(rows, variant, texts):
    assert texts in README
    with (ROOT / f"experiments/01_unified/results/{rows}/differences.csv").open() as file:
        line = next(line for line in csv.DictReader(file) if line["variant"] == variant)
    ends = [-100 * float(line[f"test_accuracy_{end}"]) for end in ("difference", "high", "low")]
    for value, text in zip(ends, re.findall(r"\d+\.\d+", texts), strict=False):
        assert _rounds_to(value, text)


def _rounds_to(value: float, text: str) -> bool:
    return f"{value:.{len(text.partition('.')[2])}f}" == text
