"""The intersection over union of every class, variant by variant."""

from collections.abc import Sequence

import pandas as pd

from unified_extractor.results.groups import by_variant
from unified_extractor.results.record import Record


def class_iou(rows: Sequence[Record]) -> pd.DataFrame | None:
    """Return a table with a line for each variant and class: its mean over seeds, NaN for a class that was nowhere.

    ``None`` where no row has it, as in classification. Raise ``RecordError`` if the rows cannot be compared.
    """
    if not any(row.test_class_iou for row in rows):
        return None
    lines = []
    for variant, own in by_variant(rows).items():
        means = pd.DataFrame([row.test_class_iou or {} for row in own], dtype=float).mean()
        lines += [{"variant": variant, "seeds": len(own), "class": name, "class_iou": value} for name, value in means.items()]
    return pd.DataFrame(lines)
