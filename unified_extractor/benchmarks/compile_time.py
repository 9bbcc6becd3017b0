"""The time that the compiled backend takes to compile. :func:`seconds` runs this file as a program with an empty cache."""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time

import torch

from unified_extractor.ops.functional import extract


def seconds() -> dict[str, float]:
    """Return the seconds to compile each pass for each dtype with an empty cache, and, as ``again``, to load all of them
    from the cache."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"NUMBA_CACHE_DIR": folder}
        cold, warm = (
            json.loads(subprocess.run([sys.executable, "-m", __name__], env=environment, check=True, capture_output=True).stdout)
            for _ in range(2)
        )
    return {name: round(value, 1) for name, value in cold.items()} | {"again": round(sum(warm.values()), 1)}


def _first_calls() -> dict[str, float]:
    found = {}
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(1, 16, 8, 8, dtype=dtype, requires_grad=True)
        kernel = torch.randn(1, 1, 9, 8, 8, dtype=dtype)
        name = str(dtype).removeprefix("torch.")
        start = time.perf_counter()
        y = extract(x, kernel_size=3, dynamic_kernel=kernel, padding=1, backend="compiled")
        found[f"forward {name}"] = time.perf_counter() - start
        start = time.perf_counter()
        y.sum().backward()
        found[f"backward {name}"] = time.perf_counter() - start
    return found


if __name__ == "__main__":
    with contextlib.redirect_stderr(io.StringIO()):
        result = _first_calls()
    print(json.dumps(result))
