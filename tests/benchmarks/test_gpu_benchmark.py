"""The GPU's benchmark: its cases, tiny, through the same code, with a meter that makes times up.

Where there is no GPU they run on the CPU by the eager backend: Triton's interpreter takes a minute, and truncates to bfloat16.
"""

import itertools
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch._dynamo.exc import TorchDynamoException

from unified_extractor.__main__ import main
from unified_extractor.benchmarks import cases, report
from unified_extractor.benchmarks.measure import ValuesDifferError, measured
from unified_extractor.commands import bench
from unified_extractor.profiling import meters

DEVICE, BACKEND = ("cuda", "triton") if torch.cuda.is_available() else ("cpu", "eager")
HALF = cases.Setting(DEVICE, torch.bfloat16, BACKEND, channels_last=True)
SINGLE = replace(HALF, dtype=torch.float32)
TINY = {
    "involution": partial(cases.involution, 32, 5, 2),
    "outlook": partial(cases.outlook_attention, 2, 24, 6, 3),
    "DCNv3": partial(cases.deformable_convolution_v4, 2, 32, 5, 2),
    "DCNv2": partial(cases.deformable_convolution_v2, 2, 16, 5),
}
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


class FakeMeter:
    """A meter that runs the computations and makes up their times: 1 ms, 2 ms, ..."""

    rotated_bytes = 0

    def __init__(self):
        self.clock = itertools.count(1)

    def replays(self, compute):
        return True

    def milliseconds(self, compute):
        compute()
        return float(next(self.clock))

    def peak_bytes(self, compute):
        compute()
        return 1000

    def kernels(self, compute):
        return {"fold": 0.5, "gather": 0.25}

    def machine(self):
        return {
            "device": "a GPU",
            "cuda": "0.0",
            "float32_matmul_precision": "highest",
            "python": "3",
            "versions": {"torch": "0"},
            "peak_multiply_adds_per_second": {"bfloat16": 4e9, "float32": 1e9},
            "peak_bytes_per_second": 1e6,
        }


def measure(case):
    return measured("a case", case, 1, FakeMeter())


def involution(setting, **changed):
    """Return a tiny involution case in which some candidates' values or steps are replaced."""
    case = cases.involution(32, 5, 2, replace(setting, backend="eager"))
    for name, change in changed.items():
        candidate = case.candidates[name]
        step = partial(change, candidate.step)
        case.candidates[name] = replace(candidate, step=step, values=step)
    return case


@pytest.mark.parametrize("setting", [HALF, SINGLE], ids=["bfloat16", "float32"])
@pytest.mark.parametrize("name", TINY)
def test_all_candidates_compute_the_same_and_all_have_times(name, setting):
    rows = measure(TINY[name](setting=setting))["candidates"]
    assert list(rows)[:2] == [cases.OURS, "eager"]
    assert not [row for row in rows.values() if "failed" in row]
    assert ("depthwise" in rows) == (name == "involution")


def test_the_plain_formulation_is_compiled_too():
    case = TINY["DCNv3"](setting=replace(SINGLE, backend="eager", compiler="aot_eager"))
    assert list(case.candidates) == [cases.OURS, "eager", "grid_sample", "compiled grid_sample"]
    assert "failed" not in measure(case)["candidates"]["compiled grid_sample"]


def test_offsets_keep_away_from_whole_pixels_where_the_derivative_jumps():
    for setting in (HALF, SINGLE):
        offsets = setting.offsets(2, 18, 40, 40).detach().float()
        assert set((offsets % 1 * 8).unique().tolist()) == set(range(1, 8))
        assert offsets.abs().max() < 8


def test_every_tensor_lies_channels_last():
    case = TINY["DCNv2"](setting=SINGLE)
    assert all(tensor.stride(1) == 1 for tensor in case.inputs)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 40 GiB"), "out of memory"),
        (TorchDynamoException("graph break\nfrom user code"), "does not compile: graph break"),
        (NotImplementedError('"im2col" not implemented for BFloat16\n'), '"im2col" not implemented for BFloat16'),
    ],
)
def test_a_baseline_that_fails_has_the_reason_instead_of_times(error, reason):
    def fails(step):
        raise error

    record = measure(involution(SINGLE, eager=fails))
    assert record["candidates"]["eager"] == {"failed": reason}
    assert record["candidates"]["unfold"]["time_ratio"] > 0
    assert f"eager: {reason}" in report.as_table(record, {}).values


def test_a_baseline_may_fail_late():
    calls = itertools.count()

    def fails(step):
        if next(calls) > 1:
            raise torch.OutOfMemoryError
        return step()

    assert measure(involution(SINGLE, eager=fails))["candidates"]["eager"] == {"failed": "out of memory"}


def test_our_own_failure_ends_the_run():
    def fails(step):
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        measure(involution(SINGLE, unified_extractor=fails))


def off_by(part, step):
    output, *gradients = step()
    return [output, gradients[0] + part * gradients[0].abs().max(), *gradients[1:]]


def test_wrong_values_have_no_times():
    with pytest.raises(ValuesDifferError, match=r"eager differs from unified_extractor by 0\.01"):
        measure(involution(SINGLE, eager=partial(off_by, 0.01)))
    with pytest.raises(ValuesDifferError, match=r"gradient 1 of unified_extractor errs by 0\.03"):
        measure(involution(HALF, unified_extractor=partial(off_by, 0.03)))
    with pytest.raises(ValuesDifferError, match="gradient 1 of unified_extractor errs by nan"):
        measure(involution(HALF, unified_extractor=partial(off_by, float("nan"))))
    with pytest.raises(ValuesDifferError, match=r"unified_extractor errs by 0\.2"):  # however wrong the plain formulation is
        measure(involution(HALF, unified_extractor=partial(off_by, 0.2), unfold=partial(off_by, 0.2)))
    rows = measure(involution(HALF, eager=partial(off_by, 0.2)))["candidates"]
    assert rows["eager"] == {"failed": "values differ by 0.2"}


def test_nothing_is_measured_that_nothing_can_judge():
    def fails(step):
        raise torch.OutOfMemoryError

    with pytest.raises(ValuesDifferError, match="nothing to judge unified_extractor by: unfold: out of memory"):
        measure(involution(HALF, unfold=fails))


def test_a_fraction_of_the_limit_is_the_limit_over_the_time():
    times = {"forward_ms": {"median": 4.0}, "forward_backward_ms": {"median": 14.0}}
    case = {
        "dtype": "bfloat16",
        "passes": {"forward": {"bytes": 2000, "multiply_adds": 10**6}, "backward": {"bytes": 1000, "multiply_adds": 2 * 10**7}},
    }
    machine = FakeMeter().machine()
    floors = report.pass_floors(case, machine)
    assert floors == {"forward": 2.0, "backward": 5.0}  # 2 kB at 1 MB/s; 20 million multiply-adds at 4 billion a second
    assert report.limit_milliseconds(case, machine) == 7.0
    assert report.fractions(times, floors) == {"forward": 0.5, "backward": 0.5, "both": 0.5}
    assert report.pass_floors(case | {"dtype": "float32"}, machine)["backward"] == 20.0


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """Return the command's tiny cases and the path of its result file."""
    made = {f"involution 32x5x5 {name}": partial(involution, setting) for name, setting in (("b16", HALF), ("f32", SINGLE))}
    monkeypatch.setattr(bench, "without_gpu", lambda: None)
    monkeypatch.setattr(bench, "GraphMeter", FakeMeter)
    monkeypatch.setattr(bench, "gpu_cases", lambda batch, device: made)
    return made, tmp_path / "result.json"


def test_the_command_writes_the_file_and_its_table(gpu):
    made, path = gpu
    assert main(["bench", "gpu", "--repeats", "1", "--batch", "2", "--output", str(path)]) == 0
    result = json.loads(path.read_text())
    assert [case["name"] for case in result["cases"]] == list(made)
    assert result["batch"] == 2
    x, kernel = 2 * 32 * 25, 2 * 2 * 49 * 25
    passes = result["cases"][1]["passes"]
    assert passes["forward"] == {"bytes": 4 * (x + kernel + x), "multiply_adds": 49 * x}
    assert passes["backward"] == {"bytes": 4 * (x + kernel + x + x + kernel), "multiply_adds": 2 * 49 * x}
    table = path.with_suffix(".md").read_text()
    assert "a GPU, CUDA 0.0" in table
    assert "forward %" in table
    assert "Geometric mean of the time ratio over the involutions, bfloat16" in table
    assert "ms: fold 0.500, gather 0.250; all of them 0.750." in table


def test_what_is_measured_is_kept_when_a_later_case_fails(gpu, capsys):
    made, path = gpu

    def fails():
        raise torch.OutOfMemoryError("40 GiB")

    made["larger"] = fails
    with pytest.raises(SystemExit) as ended:
        main(["bench", "gpu", "--repeats", "1", "--output", str(path)])
    assert ended.value.code == 1
    assert "a smaller --batch is needed" in capsys.readouterr().err
    assert len(json.loads(path.read_text())["cases"]) == 2


def test_without_a_gpu_the_command_says_so_in_a_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "gpu", "--output", str(tmp_path / "folder" / "result.json")])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "there is no GPU that PyTorch can use here" in line
    assert "--plan" in line
    assert not list(tmp_path.iterdir())


def test_the_plan_needs_no_gpu(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = tmp_path / "plan.md"
    assert main(["bench", "gpu", "--plan", "--batch", "2", "--only", "involution 512x7x7 b", "--output", str(path)]) == 0
    text = path.read_text()
    assert "not yet run on a GPU" in text
    rows = [line for line in text.splitlines() if line.startswith("| involution")]
    x, kernel = 2 * 2 * 512 * 49, 2 * 2 * 32 * 49 * 49
    megabytes, microseconds = (2 * x + kernel) / 1e6, (2 * x + kernel) / 4.8e6
    assert rows[0].startswith(f"| involution 512x7x7 | bfloat16 | banded_gather | {megabytes:.1f} | 2 | {microseconds:.1f} |")
    assert [row.split(" | ")[2] for row in rows] == ["banded_gather", "banded_image_gradient", "banded_kernel_gradient"]
    assert text in capsys.readouterr().out


def test_the_cpu_has_no_plan_and_a_result_is_no_table(capsys, tmp_path):
    for words, message in ((["cpu", "--plan"], "--plan is"), (["cpu", "--output", str(tmp_path / "x.md")], "another name")):
        with pytest.raises(SystemExit):
            main(["bench", *words])
        assert message in capsys.readouterr().err


@pytest.mark.skipif(not (BENCHMARKS / "cpu.json").exists(), reason="installed without the repository")
def test_the_committed_tables_are_those_of_their_files():
    for name in ("cpu", "kernel_memory"):
        result = json.loads((BENCHMARKS / f"{name}.json").read_text())
        assert (BENCHMARKS / f"{name}.md").read_text() == report.markdown(result)
    measured_on_a_gpu = BENCHMARKS / "gpu.json"
    if measured_on_a_gpu.exists():
        expected = report.markdown(json.loads(measured_on_a_gpu.read_text()))
    else:
        expected = bench.NOT_YET + report.plan_markdown(cases.gpu_cases(128, "meta"), 128)
    assert (BENCHMARKS / "gpu.md").read_text() == expected


@pytest.mark.gpu
@pytest.mark.parametrize("meter_of", [meters.GpuMeter, meters.GraphMeter])
def test_the_gpu_meter_sees_time_and_memory(meter_of):
    meter, x = meter_of(), torch.randn(2048, 2048, device="cuda")
    once, often = lambda: x @ x, lambda: [x @ x for _ in range(50)]
    assert 0 < meter.milliseconds(once) < meter.milliseconds(often)
    assert meter.replays(once) == (meter_of is meters.GraphMeter)
    assert meter.peak_bytes(lambda: torch.empty(2**26, dtype=torch.uint8, device="cuda")) == 2**26
    assert sum(meter.kernels(lambda: x @ x).values()) > 0
    assert set(meter.machine()["peak_multiply_adds_per_second"]) == {"bfloat16", "float32"}
