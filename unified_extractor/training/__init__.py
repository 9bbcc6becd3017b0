"""Training on Lightning: the classifier, its schedule, the record of a run. The command line is in ``training.cli``."""

from unified_extractor.training.classifier import ImageClassifier
from unified_extractor.training.errors import ConfigurationError

__all__ = ["ConfigurationError", "ImageClassifier"]
