"""Hardware counters of one step of some cases, by NVIDIA's profiler ``ncu`` where it is installed and may read them."""

import csv
import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from unified_extractor.benchmarks.cases import OURS, gpu_cases
from unified_extractor.benchmarks.gpu.results import Results

METRICS = {
    "gpu__time_duration.sum": "ns",
    "smsp__inst_executed.sum": "instructions of warps",
    "smsp__issue_active.avg.pct_of_peak_sustained_active": "issue, %",
    "l1tex__t_requests_pipe_lsu_mem_global_op_ld.sum": "loads of warps",
    "l1tex__data_pipe_lsu_wavefronts.sum": "L1 wavefronts",
    "l1tex__data_bank_conflicts_pipe_lsu.sum": "L1 bank conflicts",
    "lts__t_sectors.sum": "L2 sectors",
    "lts__t_sectors_op_red.sum": "L2 sectors of additions",
    "dram__bytes.sum": "HBM bytes",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "occupancy, %",
}
"""The counters and what each counts."""
CASES = (
    "involution 64x56x56 bfloat16",
    "DCNv3 64x56x56 bfloat16",
    "outlook 192x28x28 bfloat16",
    "DCNv2 128x28x28 bfloat16",
    "generated involution 64x56x56 bfloat16",
    "involution 512x7x7 bfloat16",
)


def run(folder: Path, toy: bool) -> None:
    """Profile the cases in turn; without ncu the file says so."""
    results = Results(folder / "counters.json", toy)
    ncu = shutil.which("ncu")
    if toy or ncu is None:
        results.write(skipped="a GPU is needed" if toy else "ncu is not installed", complete=True)
        return
    kernels: dict[str, Any] = {}
    for name in CASES:
        kernels[name] = _profiled(ncu, name)
        results.write(kernels=kernels, counts=METRICS)
    results.write(complete=True)


def _profiled(ncu: str, name: str) -> Any:
    """Return the counters of each kernel of a step, or why there are none."""
    options = ["--clock-control", "none", "--profile-from-start", "off", "--csv", "--page", "raw", "--metrics", ",".join(METRICS)]
    command = [ncu, *options, sys.executable, "-m", __name__, name]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    text = "\n".join(line for line in ended.stdout.splitlines() if line.startswith('"'))
    rows = list(csv.DictReader(io.StringIO(text)))[1:]  # the first row has the units
    if ended.returncode or not rows:
        return {"failed": (ended.stderr or ended.stdout).strip()[-500:]}
    return [{"kernel": row["Kernel Name"]} | {metric: row.get(metric) for metric in METRICS} for row in rows]


def one_step(name: str) -> None:
    """Run a case's step twice, the second time under the profiler."""
    torch.manual_seed(0)
    case = gpu_cases(128, compiler=None)[name]()
    case.candidates[OURS].step()
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    case.candidates[OURS].step()
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()


if __name__ == "__main__":
    one_step(sys.argv[1])
