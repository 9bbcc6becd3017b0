"""Compilation on first use, kept on disk for the next process."""

import hashlib
import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from llvmlite import binding
from numba import njit
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.serialize import dumps

_HERE = Path(__file__).parent
_FILES = [*sorted(_HERE.glob("*.py")), _HERE.parents[1] / "call.py"]
"""The files that decide the machine code and the layout of its arguments: these here, and the one with the record of wanted gradients."""
_SOURCES = hashlib.sha256(b"".join(path.read_bytes() for path in _FILES)).hexdigest()
VECTOR_BITS = 512 if binding.get_host_cpu_features().get("avx512f") else 256
"""The width of a vector register. Numba's own key knows the processor, but not if ``NUMBA_CPU_NAME`` gives it another name."""

_NO_WRAPPERS: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""Options of functions that compiled code alone calls: wrappers for callers in Python and C take a quarter of the compilation."""

inlined: Callable[[Callable[..., Any]], Any] = njit(forceinline=True, **_NO_WRAPPERS)
"""A function that becomes part of the kernel that calls it."""


def kernel(function: Callable[..., Any]) -> Any:
    """Compile the function for each new dtype it is called with; its loops run without the interpreter's lock."""
    dispatcher: Any = njit(nogil=True, error_model="numpy")(function)
    try:
        dispatcher._cache = _Cache(function)
    except (RuntimeError, OSError):  # no folder to write to: every process compiles for itself
        dispatcher._cache = _Announced(function)
    return dispatcher


class _Notices:
    """The lines on stderr about the compilation of a pass, before and after it, since it takes seconds."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name, self.start = function.__name__, 0.0

    def announce(self, signature: Any, folder: str | None) -> None:
        """Say that the pass is compiled, and where it is kept."""
        self.start = time.monotonic()
        kept = f"kept in {folder}" if folder else "no folder is writable, so every process repeats it: set NUMBA_CACHE_DIR"
        self.say(
            f"compiling the CPU's {self.name} pass for {signature[2]}, 5 to 7 s where idle, once ({kept}; uniex compile does it ahead)"
        )

    def finish(self, signature: Any, trouble: Exception | None = None) -> None:
        """Say how long it took, and why the result is not kept, if it is not."""
        kept = f", not kept ({_reason(trouble)}): the next process repeats it" if trouble else ""
        self.say(f"compiled the {self.name} pass for {signature[2]} in {time.monotonic() - self.start:.0f} s{kept}")

    def say(self, text: str) -> None:
        """Write a line to the standard error stream."""
        print(f"unified_extractor: {text}", file=sys.stderr)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


class _Announced:
    """Notices in the place of a cache. The methods are those that Numba asks of a function's cache."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._notices = _Notices(function)

    def load_overload(self, signature: Any, target_context: Any) -> None:
        self._notices.announce(signature, None)

    def save_overload(self, signature: Any, compiled: Any) -> None:
        self._notices.finish(signature)


class _Sealed(CompileResultCacheImpl):
    """Compiled code with a checksum: a file can be cut, overwritten or left over from other code, and would be executed as it is."""

    signature: Any = None
    """The types of the arguments that are loaded or saved."""

    def reduce(self, compiled: Any) -> tuple[bytes, bytes]:
        """Return the checksum and the pickled code."""
        content = dumps(super().reduce(compiled))
        return self._checksum(content), content

    def rebuild(self, target_context: Any, sealed: tuple[bytes, bytes]) -> Any:
        """Return the code. Raise ``ValueError`` if it is not what was saved for this signature by these sources."""
        checksum, content = sealed
        if checksum != self._checksum(content):
            raise ValueError("the checksum is wrong")
        return super().rebuild(target_context, pickle.loads(content))

    def _checksum(self, content: bytes) -> bytes:
        return hashlib.sha256(f"{_SOURCES} {VECTOR_BITS} {self.signature}".encode() + content).digest()


class _Cache(FunctionCache):
    """The cache on disk: Numba's, keyed by the sources and the width of registers too, safe with several processes, and with notices.

    What cannot be read, for whatever reason, is compiled again and replaced; what cannot be written is compiled for this process.
    """

    _impl_class = _Sealed

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._notices = _Notices(function)

    def _index_key(self, signature: Any, codegen: Any) -> tuple[Any, ...]:
        return (*super()._index_key(signature, codegen), _SOURCES, VECTOR_BITS)

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        self._impl.signature = signature
        found = None
        try:
            found = super().load_overload(signature, target_context)
        except Exception as error:  # unpickling raises nearly anything
            text = f"the {self._notices.name} pass kept in {self.cache_path} is damaged ({_reason(error)}), it is compiled again"
            self._notices.say(text)
        if found is None:
            self._notices.announce(signature, self.cache_path)
        return found

    def save_overload(self, signature: Any, compiled: Any) -> None:
        self._impl.signature, trouble = signature, None
        # Two processes that save different signatures at once would give both the same file name.
        try:
            with FileLock(Path(self.cache_path) / f"{self._py_func.__name__}.lock", timeout=60):
                self._replace_damaged_index()
                super().save_overload(signature, compiled)
        except (OSError, Timeout) as error:
            trouble = error
        self._notices.finish(signature, trouble)

    def _replace_damaged_index(self) -> None:
        try:
            self._cache_file._load_index()
        except Exception:  # as above
            self.flush()
