"""The networks have the parameters of the released codes and the multiply-adds of the papers; the committed table says so."""

import json
from pathlib import Path

import pytest
import torch

from unified_extractor.benchmarks import network_costs
from unified_extractor.commands import bench

FILE = Path(__file__).parents[2] / "benchmarks" / "models.json"
COMMITTED = {row["network"]: row for row in json.loads(FILE.read_text())["networks"]}
WITH_COUNTS = [
    pytest.param(name, marks=[pytest.mark.thorough] if any(deep in name for deep in ("101", "152", "internimage")) else [])
    for name, figures in network_costs.FIGURES.items()
    if figures.multiply_adds
]


@pytest.mark.parametrize("name", network_costs.FIGURES)
def test_parameters_are_those_of_the_released_code(name):
    with torch.device("meta"):
        network = network_costs.FIGURES[name].make()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert parameters == COMMITTED[name]["parameters"]
    if network_costs.FIGURES[name].parameters is not None:
        assert parameters == network_costs.FIGURES[name].parameters


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", WITH_COUNTS)
def test_multiply_adds_are_within_a_percent_of_the_figure(name):
    row = network_costs.counted(name)
    assert row == COMMITTED[name]
    assert network_costs.compared(row) == pytest.approx(network_costs.FIGURES[name].multiply_adds, rel=0.01)


def test_the_committed_table_is_made_of_the_committed_rows():
    assert list(COMMITTED) == list(network_costs.FIGURES)
    assert FILE.with_suffix(".md").read_text() == network_costs.markdown(list(COMMITTED.values()))


def test_the_command_writes_both_files(tmp_path, capsys):
    output = tmp_path / "new" / "models.json"
    assert bench.main(["models", "--only", "rednet26 (stem", "--output", str(output)]) == 0
    assert [row["network"] for row in json.loads(output.read_text())["networks"]] == ["rednet26 (stem_kernel_size=7)"]
    assert "| rednet26 (stem_kernel_size=7) | 9,233,886 | equal |" in output.with_suffix(".md").read_text()
    assert "written:" in capsys.readouterr().out


def test_a_difference_is_shown():
    row = COMMITTED["resnet50"] | {"parameters": 3, "multiply_adds": 8_180_000_000}
    assert "| 3 | 25,557,032 |" in network_costs.markdown([row])
    assert "+100.00%" in network_costs.markdown([row])
