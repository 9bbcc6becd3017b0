"""Names of weights without the prefixes that training codes put before them."""

import re
from collections.abc import Collection, Mapping

from torch import Tensor

PREFIXES = ("module.", "model.", "network.", "net.", "backbone.", "encoder.", "img_backbone.")
"""Prefixes of wrappers: data parallelism, Lightning modules, and codes with a head of their own."""
_INSIDE = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Parts of names that wrappers of single modules put anywhere."""
_DEPTH = 4
"""Largest number of parts of a prefix."""


def without_prefixes(values: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Return weights without the wrappers' prefixes that all of them have, and what was removed, such as ``module.model.``."""
    values, removed = _without_wrappers_inside(values), ""
    if "n_averaged" in values and all(name == "n_averaged" or name.startswith("module.") for name in values):
        del values["n_averaged"]  # the counter of torch's averaged model
    while found := next((prefix for prefix in PREFIXES if values and all(name.startswith(prefix) for name in values)), None):
        values, removed = {name.removeprefix(found): value for name, value in values.items()}, removed + found
    return values, removed


def fitted_names(values: Mapping[str, Tensor], wanted: Collection[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return weights under the names that a network wants, and what was done to names, with the reason.

    Of the dotted prefixes the one is removed after which most names are wanted ones, of equal ones not that of an average; values without
    it are left out. A wanted prefix of a wrapper, such as ``backbone.``, is added where names fit with it.
    """
    wanted, values = set(wanted), _without_wrappers_inside(values)
    shared = [prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in wanted)]
    of_all = without_prefixes(values)[1]
    options = [(removed, "") for removed in ("", *_dotted_prefixes(values))]
    options += [(removed, added) for added in shared for removed in ("", of_all)]
    fits = {option: len(wanted & _renamed(values, *option).keys()) for option in options}
    removed, added = max(options, key=lambda option: (fits[option], "ema" not in option[0]))  # the first of equal ones
    notes = {}
    if removed:
        notes[f"{removed}*"] = f"the prefix {removed!r} of names was removed"
        notes |= {name: f"left out, it is not under {removed!r}" for name in values if not name.startswith(removed)}
    if added:
        notes["*"] = f"the prefix {added!r} was added to names"
    return _renamed(values, removed, added), notes


def _without_wrappers_inside(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {_INSIDE.sub("", name): value for name, value in values.items()}


def _renamed(values: Mapping[str, Tensor], removed: str, added: str) -> dict[str, Tensor]:
    return {added + name.removeprefix(removed): value for name, value in values.items() if name.startswith(removed)}


def _dotted_prefixes(values: Mapping[str, Tensor]) -> list[str]:
    """Return the beginnings of names up to a dot, of a few parts at most, in the order of the names."""
    ends = ((name, [dot.end() for dot in re.finditer(r"\.", name)][:_DEPTH]) for name in values)
    return list(dict.fromkeys(name[:end] for name, dots in ends for end in dots))
