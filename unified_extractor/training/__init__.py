"""The training of networks with Lightning: the task module, its optimizer, and runs with their records. The command line is in
``training.cli``."""

from typing import TYPE_CHECKING, NoReturn

from unified_extractor.extras import require

require("train", __name__)

from unified_extractor.names import no_attribute
from unified_extractor.training.classifier import ImageClassifier
from unified_extractor.training.errors import ConfigurationError
from unified_extractor.training.run.finished_run import load_run
from unified_extractor.training.run.run_card import model_card
from unified_extractor.training.segmenter import Segmenter
from unified_extractor.training.trained import Trained, load

__all__ = ["ConfigurationError", "ImageClassifier", "Segmenter", "Trained", "load", "load_run", "model_card"]


if not TYPE_CHECKING:  # a type checker shall go on to see that a name is unknown

    def __getattr__(name: str) -> NoReturn:
        """Raise ``AttributeError`` with the nearest name for one that there is not."""
        raise no_attribute(__name__, name, __all__)
