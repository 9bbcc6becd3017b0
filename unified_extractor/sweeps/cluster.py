"""The executors of submitit, which run the jobs of a sweep here or on SLURM."""

import importlib.util
import os
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from unified_extractor.sweeps import job
from unified_extractor.sweeps.cell import Cell
from unified_extractor.sweeps.grid import SweepError

Cluster = Literal["local", "slurm", "debug"]
_NO_LIMIT_MINUTES = 60 * 24 * 365
"""The time limit of local jobs, a year: submitit's default is two minutes."""


def check_system() -> None:
    """Raise ``SweepError`` on systems without the locks by which a sweep knows the cells that run."""
    if importlib.util.find_spec("fcntl") is None:
        raise SweepError(
            f"a sweep needs the file locks of Linux or macOS, which {sys.platform} lacks; uniex fit trains single runs"
        )


def make_executor(cluster: Cluster, folder: Path, *, workers: int, slurm: Mapping[str, Any]) -> Any:
    """Return an executor of jobs. On SLURM it runs at most ``workers`` jobs at once; elsewhere the caller counts them.

    Its files go into a new folder below ``folder``: jobs are named by process ids, which come again.
    """
    import cloudpickle
    import submitit

    cloudpickle.register_pickle_by_value(job)  # workers need not import this package, which would load torch
    settings: dict[str, Any] = {"timeout_min": _NO_LIMIT_MINUTES} if cluster == "local" else {}
    if cluster == "slurm":
        settings = {"name": "uniex-sweep", "slurm_array_parallelism": workers}
        settings |= {f"slurm_{name}": value for name, value in slurm.items()}
    try:
        executor = submitit.AutoExecutor(folder / uuid.uuid4().hex[:12], cluster=cluster)
        executor.update_parameters(**settings)
    except (NameError, ValueError, TypeError, RuntimeError, AssertionError) as error:
        raise SweepError(f"--cluster {cluster}: {' '.join(str(error).split())}") from error
    if cluster == "slurm":
        from unified_extractor.sweeps.slurm import watch_jobs

        watch_jobs()
    return executor


def cell_job(cell: Cell, *, gpu: str | None, local: bool) -> job.CellJob:
    """Return the job of a cell. It sees only the GPU called ``gpu``, or with ``None`` those that this process sees."""
    environment: dict[str, str | None] = {}
    if local:  # submitit hides all GPUs from local jobs
        environment["CUDA_VISIBLE_DEVICES"] = gpu if gpu is not None else os.environ.get("CUDA_VISIBLE_DEVICES")
    else:  # Lightning would take the job's single task for all of its processes, and requeue beside submitit
        environment["SLURM_JOB_NAME"] = "interactive"
    return job.CellJob(cell.command, cell.log.absolute(), Path.cwd(), environment)


def visible_gpus() -> list[str]:
    """Return the GPUs that this process sees, as ``CUDA_VISIBLE_DEVICES`` names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(number) for number in range(torch.cuda.device_count())] if named is None else [g for g in named.split(",") if g]
