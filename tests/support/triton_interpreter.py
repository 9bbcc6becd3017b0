"""Triton's interpreter, made faster: it patches Triton's language at every call of a function within a kernel, here once a launch."""

import inspect
from typing import Any


def patch_the_language_once_a_launch() -> None:
    """Change the interpreter of this process; half of its time went into patching what was patched already."""
    from triton.runtime import interpreter

    patch, tl = interpreter._patch_lang, interpreter.tl
    languages_of: dict[int, frozenset[str]] = {}
    patched: set[str] = set()
    launches: list[Any] = []

    def languages(fn: Any) -> frozenset[str]:
        key = id(fn.__globals__)
        if key not in languages_of:
            found = [value for value in fn.__globals__.values() if inspect.ismodule(value)]
            languages_of[key] = frozenset(value.__name__ for value in found if value in (tl, tl.core))
        return languages_of[key]

    def patched_once(fn: Any) -> Any:
        if launches and languages(fn) <= patched:
            return None
        scope = patch(fn)
        patched.update(languages(fn))
        if not launches:  # the launch: the functions that it calls are patched within it, and it takes all of it back
            launches.append(scope)
            restore = scope.restore

            def restored() -> None:
                launches.clear()
                patched.clear()
                restore()

            scope.restore = restored
        return scope

    interpreter._patch_lang = patched_once
