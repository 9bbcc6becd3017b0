"""The content of a report of one group of records."""

from dataclasses import dataclass, field

import pandas as pd
from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Report:
    """The tables and figures of one group of records, by the names of their files.

    Attributes:
        tables: tables by name.
        captions: caption of each table.
        notes: what a table means, sentence by sentence, for those tables that need it.
        figures: figures by name, not yet saved.
    """

    tables: dict[str, pd.DataFrame]
    captions: dict[str, str]
    notes: dict[str, list[str]] = field(default_factory=dict)
    figures: dict[str, Figure]
