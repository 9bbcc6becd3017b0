"""Names that a user chooses from a set, and the nearest one to a name that is not in it."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """Return ``", did you mean softmax?"`` for the name ``softmx``, or ``""`` where no known name is near: the end of an error's message.

    Case, hyphens and underscores do not count.
    """
    plain = {_plain(one): one for one in known}
    nearest = difflib.get_close_matches(_plain(name), plain, n=1)
    return f", did you mean {plain[nearest[0]]}?" if nearest else ""


def _plain(name: object) -> str:
    return str(name).lower().replace("-", "_")
