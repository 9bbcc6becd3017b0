"""What is measured of a classifier beside its loss."""

from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

TOP = 5


def classification_metrics(num_classes: int, prefix: str) -> MetricCollection:
    """``accuracy``, ``calibration_error`` (expected, 15 bins) and, where there are more than five classes, ``top5_accuracy``."""
    metrics = {
        "accuracy": MulticlassAccuracy(num_classes, average="micro"),
        "calibration_error": MulticlassCalibrationError(num_classes, n_bins=15),
    }
    if num_classes > TOP:
        metrics["top5_accuracy"] = MulticlassAccuracy(num_classes, top_k=TOP, average="micro")
    return MetricCollection(metrics, prefix=prefix, compute_groups=False)  # type: ignore[arg-type]
