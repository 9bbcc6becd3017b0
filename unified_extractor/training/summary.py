"""What one sees when a run has ended: its row as a table, its curves as a picture."""

from pathlib import Path

from unified_extractor.analysis.record import Record
from unified_extractor.training.run_folder import RECORD


def summarise(record: Record, folder: Path) -> None:
    """Print the run's row and draw ``curves.png``."""
    print(f"{folder / RECORD} {record.test_accuracy:.4f}")
