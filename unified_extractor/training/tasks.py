"""The task that a run has, which follows from its data: what a label is decides what is trained and measured."""

from unified_extractor.data import SegmentationFolder, VisionDataModule
from unified_extractor.options import imported
from unified_extractor.training.classifier import ImageClassifier
from unified_extractor.training.network_module import NetworkModule
from unified_extractor.training.segmenter import Segmenter

_OTHERS: tuple[tuple[type[VisionDataModule], type[NetworkModule]], ...] = ((SegmentationFolder, Segmenter),)
"""Data modules of other tasks than classification, each with its task module."""
_DATA = "unified_extractor.data"


def module_for(class_path: object) -> type[NetworkModule]:
    """Return the task module of a run whose data module has this path, or the name of a class of this package."""
    kind = (imported(class_path) or imported(f"{_DATA}.{class_path}")) if isinstance(class_path, str) else None
    pairs = (module for data, module in _OTHERS if isinstance(kind, type) and issubclass(kind, data))
    return next(pairs, ImageClassifier)
