"""What one sees when a run has ended: its row as a table, its curves as a picture."""

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from unified_extractor.results.record import Record
from unified_extractor.results.tables import formatted, results_table
from unified_extractor.training.run.folder import RECORD
from unified_extractor.visualize.curves import draw_curves


def summarise(record: Record, folder: Path) -> None:
    """Print the run's row, a line a field, and draw ``curves.png`` into its folder."""
    text = formatted(results_table([record]))
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    for name, (value,) in text.items():
        table.add_row(str(name), str(value))
    Console().print(table)
    draw_curves([record]).savefig(folder / "curves.png", dpi=130)
    print(f"test accuracy {record.test_accuracy:.4f} of epoch {record.best_epoch}\n{folder / RECORD}, curves.png")
