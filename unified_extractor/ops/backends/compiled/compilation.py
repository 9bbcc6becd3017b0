"""Compilation on first use, kept on disk for the next process."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from llvmlite import binding
from numba import njit
from numba.core.caching import FunctionCache

_HERE = Path(__file__).parent
_FILES = [*sorted(_HERE.glob("*.py")), _HERE.parents[1] / "call.py"]
"""The files that decide the machine code and the layout of its arguments: these here, and the one with the record of wanted gradients."""
_SOURCES = hashlib.sha256(b"".join(path.read_bytes() for path in _FILES)).hexdigest()
VECTOR_BITS = 512 if binding.get_host_cpu_features().get("avx512f") else 256
"""The width of a vector register. Numba's own key knows the processor, but not if ``NUMBA_CPU_NAME`` gives it another name."""

inlined: Callable[[Callable[..., Any]], Any] = njit(forceinline=True)
"""A function that becomes part of the kernel that calls it."""


def kernel(function: Callable[..., Any]) -> Any:
    """Compile the function for each new dtype it is called with; its loops run without the interpreter's lock."""
    dispatcher: Any = njit(nogil=True, error_model="numpy")(function)
    try:
        dispatcher._cache = _Cache(function)
    except RuntimeError:  # no folder to write to: every process compiles for itself
        dispatcher._cache = _Announced(function)
    return dispatcher


def _announce(function: Callable[..., Any], signature: Any, folder: str | None) -> None:
    kept = f"kept in {folder}" if folder else "no folder is writable, so every process repeats it: set NUMBA_CACHE_DIR"
    print(
        f"unified_extractor: compiling the CPU's {function.__name__} pass for {signature[2]}, some seconds, once ({kept})",
        file=sys.stderr,
    )


class _Announced:
    """A notice in the place of a cache. The methods are those that Numba asks of a function's cache."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def load_overload(self, signature: Any, target_context: Any) -> None:
        _announce(self._function, signature, None)

    def save_overload(self, signature: Any, compiled: Any) -> None:
        pass


class _Cache(FunctionCache):
    """The cache on disk: Numba's, keyed by the sources and the width of registers too, safe with several processes, and with a notice."""

    def _index_key(self, signature: Any, codegen: Any) -> tuple[Any, ...]:
        return (*super()._index_key(signature, codegen), _SOURCES, VECTOR_BITS)

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        found = super().load_overload(signature, target_context)
        if found is None:
            _announce(self._py_func, signature, self.cache_path)
        return found

    def save_overload(self, signature: Any, compiled: Any) -> None:
        # Two processes that save different signatures at once would give both the same file name.
        try:
            with FileLock(Path(self.cache_path) / f"{self._py_func.__name__}.lock", timeout=60):
                super().save_overload(signature, compiled)
        except (OSError, Timeout):
            pass  # compiled for this process, not kept
