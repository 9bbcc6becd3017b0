"""Compiling the CPU's passes ahead of their first use, for container images and login nodes."""

import argparse
from collections.abc import Sequence

import torch

import unified_extractor as ux

DTYPES = ("float32", "float64")


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile the passes of the compiled backend for some dtypes, where they are not yet, and return an exit code."""
    parser = argparse.ArgumentParser(
        "uniex compile",
        description="Compile the loops of the compiled CPU backend, forward and backward, so that no later process waits for it. "
        "They are kept beside the package, or in the folder that NUMBA_CACHE_DIR names.",
    )
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32"], help="float32 serves half precision too")
    options = parser.parse_args(arguments)
    if reason := ux.backends()["compiled"]:
        parser.error(f"the compiled backend is not usable here: {reason}")
    for name in options.dtypes:
        x = torch.ones(1, 16, 4, 4, dtype=getattr(torch, name), requires_grad=True)
        for static, dynamic in ((None, x.new_ones(1, 1, 9, 4, 4)), (x.new_ones(2, 16, 1, 3, 3), x.new_ones(1, 2, 1, 1, 4, 4))):
            y = ux.extract(x, kernel_size=3, padding=1, static_kernel=static, dynamic_kernel=dynamic, backend="compiled")
            y.sum().backward()
        print(f"{name}: both passes are compiled, of kernels with several terms too")
    return 0
