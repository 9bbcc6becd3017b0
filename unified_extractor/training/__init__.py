"""The training of networks with Lightning: the task module, its optimizer, and runs with their records. The command line is in
``training.cli``."""

from unified_extractor.extras import require

require("train", __name__)

from unified_extractor.training.classifier import ImageClassifier
from unified_extractor.training.errors import ConfigurationError
from unified_extractor.training.run.finished_run import load_run
from unified_extractor.training.run.run_card import model_card
from unified_extractor.training.segmenter import Segmenter
from unified_extractor.training.trained import Trained, load

__all__ = ["ConfigurationError", "ImageClassifier", "Segmenter", "Trained", "load", "load_run", "model_card"]
