"""The training of networks with Lightning: the task module, its optimizer and the records of runs. The command line is in
``training.cli``."""

from unified_extractor.training.classifier import ImageClassifier
from unified_extractor.training.errors import ConfigurationError

__all__ = ["ConfigurationError", "ImageClassifier"]
