"""Tables in Markdown."""

import pandas as pd


def as_markdown(text: pd.DataFrame, caption: str = "") -> str:
    """Return a table of text in Markdown, below its caption; the first column to the left, numbers to the right."""
    rows = [list(text.columns), [":--"] + ["--:"] * (len(text.columns) - 1), *text.values.tolist()]
    lines = [f"| {' | '.join(str(value).replace('|', chr(92) + '|') for value in row)} |" for row in rows]
    return (f"{caption}\n\n" if caption else "") + "\n".join(lines) + "\n"
