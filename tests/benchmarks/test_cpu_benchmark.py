import json
from functools import partial

import pytest
import torch
from torch import nn

import unified_extractor as ux
from unified_extractor.__main__ import main
from unified_extractor.analysis import saved_bytes
from unified_extractor.benchmarks import cases, compile_time, kernel_memory
from unified_extractor.benchmarks.baselines import with_unfold
from unified_extractor.commands import bench
from unified_extractor.profiling import meters

SMALL = {
    "involution": partial(cases.involution, 32, 9, batch=2),
    "DCNv2": partial(cases.deformable_convolution_v2, 2, 8, 7),
    "DCNv4": partial(cases.deformable_convolution_v4, 2, 16, 7),
    "outlook": partial(cases.outlook_attention, 2, 24, 8, 3),
    "mixture": partial(cases.mixture, 3, 2, 16, 7, 2),
    "CARAFE": partial(cases.carafe, 2, 8, 5),
    "DySample": partial(cases.dysample, 2, 8, 5, 2),
    "convolution": partial(cases.convolution, 2, 8, 9),
}


@pytest.fixture
def small_cases(monkeypatch, tmp_path):
    threads = torch.get_num_threads()
    monkeypatch.setattr(bench, "CPU_CASES", SMALL)
    monkeypatch.setattr(compile_time, "seconds", lambda: {"forward float32": 1.0, "again": 0.5})
    yield tmp_path / "result.json"
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", SMALL)
def test_baselines_compute_what_the_operator_computes(name):
    case = SMALL[name]()
    expected = case.candidates[cases.OURS].values()
    for candidate in case.candidates.values():
        if candidate.values:
            for value, reference in zip(candidate.values(), expected, strict=True):
                torch.testing.assert_close(value, reference, rtol=1e-4, atol=1e-4)


def test_a_network_on_the_unfold_formulation_is_the_same_network():
    layers = nn.Sequential(
        *(ux.UnifiedExtractor2d(32, 32, ux.presets.involution(kernel_size=3), stride) for stride in (1, 2))
    ).double()
    image = torch.randn(2, 32, 8, 8, dtype=torch.float64)
    expected = layers(image)
    with_unfold(layers)
    assert not any(isinstance(layer, ux.UnifiedExtractor2d) for layer in layers)
    torch.testing.assert_close(layers(image), expected)


def test_the_result_file_holds_times_with_their_spread_memory_and_machine(small_cases, monkeypatch):
    two = {name: SMALL[name] for name in ("involution", "convolution")}
    monkeypatch.setattr(bench, "CPU_CASES", two)
    assert main(["bench", "cpu", "--repeats", "2", "--threads", "1", "--output", str(small_cases)]) == 0
    result = json.loads(small_cases.read_text())
    assert [case["name"] for case in result["cases"]] == list(two)
    assert result["machine"]["threads"] == 1
    assert torch.__version__.startswith(result["machine"]["versions"]["torch"])
    for case in result["cases"]:
        for name, row in case["candidates"].items():
            for times in (row["forward_ms"], row["forward_backward_ms"]):
                assert 0 < times["p20"] <= times["median"] <= times["p80"]
            assert (row["largest_difference"] is None) == (name == "depthwise")
        assert case["candidates"][cases.OURS]["time_ratio"] == 1
    table = small_cases.with_suffix(".md").read_text()
    assert all(f"**{name}**" in table for name in two)


def test_no_time_is_reported_when_values_differ(small_cases, monkeypatch, capsys):
    monkeypatch.setattr(cases, "unfold_multiply_sum", lambda x, kernel, size: 1.01 * x * kernel.sum())
    with pytest.raises(SystemExit) as ended:
        main(["bench", "cpu", "--repeats", "1", "--output", str(small_cases)])
    assert ended.value.code == 1
    assert "unfold differs from unified_extractor" in capsys.readouterr().err
    assert not small_cases.exists()


def test_an_output_that_cannot_be_is_refused_before_anything_is_measured(small_cases, monkeypatch, capsys):
    monkeypatch.setattr(meters.CpuMeter, "machine", lambda self: pytest.fail("measured"))
    small_cases.write_text("a file where a folder is asked for")
    with pytest.raises(SystemExit) as ended:
        main(["bench", "cpu", "--output", str(small_cases / "result.json")])
    assert ended.value.code == 2
    assert f"--output {small_cases}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["bench", "cpu", "--output", str(small_cases.parent)])
    assert "Is a directory" in capsys.readouterr().err


def test_an_unknown_case_is_named(small_cases, capsys):
    with pytest.raises(SystemExit):
        main(["bench", "cpu", "--only", "winograd"])
    assert "--only winograd" in capsys.readouterr().err


def test_peak_memory_sees_what_is_allocated_inside_an_operation():
    size = 2**26
    peak = meters.CpuMeter().peak_bytes(lambda: torch.ones(size, dtype=torch.uint8).max())
    if peak is None:
        pytest.skip("the system does not tell")
    assert 0.9 * size < peak < 1.5 * size  # the system counts pages in batches


def test_layers_that_make_their_kernel_and_layers_that_store_it_compute_the_same():
    """Under the backend's rule and against it."""
    pytest.importorskip("numba")
    for spec in (ux.presets.involution(7), ux.presets.deformable_convolution(3, groups=2)):
        case = kernel_memory.layer(spec, 32, 8, batch=2)
        expected = case.candidates[cases.OURS].values()
        for candidate in case.candidates.values():
            for value, reference in zip(candidate.values(), expected, strict=True):
                torch.testing.assert_close(value, reference, rtol=1e-3, atol=1e-3)
        kept = {name: saved_bytes(candidate.forward, *case.inputs) for name, candidate in case.candidates.items()}
        assert kept["recomputed in the loops"] < kept["stored"]
