"""``uniex bench train``: every path of the data is timed beside the step, the files say what was measured."""

import json
from pathlib import Path

import pytest
import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent

from unified_extractor.__main__ import main
from unified_extractor.benchmarks import training_step
from unified_extractor.benchmarks.training_input import CASES, PATHS, RandomImages, markdown
from unified_extractor.data.device_loader import DeviceLoader
from unified_extractor.profiling.cost import multiply_adds
from unified_extractor.profiling.meters import CpuMeter


def test_bench_train_writes_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    output = tmp_path / "train.json"
    assert main(["bench", "train", "--only", "digits", "--repeats", "3", "--threads", "1", "--output", str(output)]) == 0
    result = json.loads(output.read_text())
    (case,) = result["cases"]
    times = case["milliseconds"]
    assert set(times) == {"step", *(f"{what} {path}" for what in ("input", "both") for path in PATHS)}
    assert all(0 < values["p20"] <= values["median"] <= values["p80"] for values in times.values())
    assert times["both on the device"]["median"] > times["input on the device"]["median"]
    table = output.with_suffix(".md").read_text()
    assert table in capsys.readouterr().out
    share = times["input on the device"]["median"] / times["step"]["median"]
    assert f"{share:.1%}" in table


def test_a_step_of_a_frame_is_measured_beside_its_kernels_and_the_rest_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(training_step, "FRAMES", {"tiny frame": training_step.TOY})
    monkeypatch.setattr(CpuMeter, "machine", lambda _: {"device": "a CPU", "peak_multiply_adds_per_second": 1_000_000_000})
    output = tmp_path / "train.json"
    assert main(["bench", "train", "--only", "tiny", "--repeats", "3", "--threads", "1", "--output", str(output)]) == 0
    (frame,) = json.loads(output.read_text())["frames"]
    seen, step = frame["profile"], frame["step_ms"]["median"]
    assert 0 < seen["kernels"] < seen["step"]  # one thread computes, so that the operators' own times are parts of the step
    assert frame["step_to_kernels"] == pytest.approx(seen["step"] / seen["kernels"])
    assert any("conv" in name for name in seen["longest"])
    assert sum(frame["host_ms"].values()) == pytest.approx(step, abs=0.01)
    assert all(0 < frame["host_ms"][part] < 1.5 * step for part in ("batch", "forward", "backward", "optimizer", "callbacks"))
    assert frame["multiply_adds"] == 3 * 16 * multiply_adds(training_step.TOY.network(), (3, 32, 32))
    assert (seen["launches"], seen["waits"]) == (0, 0)
    table = output.with_suffix(".md").read_text()
    assert table in capsys.readouterr().out
    assert f"| {frame['step_to_kernels']:.2f} |" in table
    assert f"| {1000 * frame['multiply_adds'] / 1e9:.3g} |" in table


def _event(name: str, device: DeviceType, start: float, end: float, annotation: bool = False) -> FunctionEvent:
    return FunctionEvent(1, name, 0, start, end, device_type=device, is_user_annotation=annotation)


def test_kernels_launches_and_waits_of_a_gpu_are_told_apart():
    cpu, gpu = DeviceType.CPU, DeviceType.CUDA
    events = [
        _event("conv", gpu, 0, 3000),
        _event("conv", gpu, 3000, 6000),
        _event("Memcpy HtoD", gpu, 6000, 7500),
        _event("Optimizer.step", gpu, 0, 9000, annotation=True),
        _event("aten::conv2d", cpu, 0, 900),
        *[_event(name, cpu, 0, 10) for name in ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cudaGraphLaunch")],
        _event("cudaMemcpyAsync", cpu, 0, 10),
        _event("cudaStreamSynchronize", cpu, 0, 600),
        _event("cudaEventSynchronize", cpu, 0, 300),
        _event("cudaEventQuery", cpu, 0, 1),
    ]
    seen = training_step._read(events, 5.0, torch.device("cuda"))
    assert (seen.step, seen.kernels, seen.longest) == (5.0, 2.5, {"conv": 2.0, "Memcpy HtoD": 0.5})
    assert (seen.launches, seen.waits, seen.waiting) == pytest.approx((5 / 3, 2 / 3, 0.3))


def test_one_measurement_has_no_spread(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(["bench", "train", "--repeats", "1"])
    assert stop.value.code == 2
    assert "--repeats must be at least 2" in capsys.readouterr().err


def test_committed_figures_are_those_of_the_committed_measurement():
    folder = Path(__file__).parents[2] / "benchmarks"
    result = json.loads((folder / "train.json").read_text())
    assert [case["name"] for case in result["cases"]] == list(CASES)
    assert markdown(result) == (folder / "train.md").read_text()
    smallest = result["cases"][0]["milliseconds"]
    assert smallest["input on the device"]["median"] < 0.1 * smallest["step"]["median"]


def test_random_images_are_held_on_the_device():
    data = RandomImages(16)
    assert isinstance(data.train_dataloader(), DeviceLoader)
    assert [len(data.images(split)) for split in ("train", "val")] == [45_000, 5_000]  # type: ignore[arg-type]
