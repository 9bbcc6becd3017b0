"""Tables in Markdown."""

from collections.abc import Sequence

import pandas as pd


def as_markdown(text: pd.DataFrame, caption: str = "", notes: Sequence[str] = ()) -> str:
    """Return a table of text in Markdown, below its caption and above its notes; the first column to the left, numbers to the right."""
    rows = [list(text.columns), [":--"] + ["--:"] * (len(text.columns) - 1), *text.values.tolist()]
    lines = [f"| {' | '.join(str(value).replace('|', chr(92) + '|') for value in row)} |" for row in rows]
    below = "\n" + "\n".join(f"* {note}" for note in notes) + "\n" if notes else ""
    return (f"{caption}\n\n" if caption else "") + "\n".join(lines) + "\n" + below
