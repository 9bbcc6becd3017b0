"""A filter that keeps Lightning's advertisements and hints away from users. Real warnings stay."""

import logging
import warnings

_LOGGED = (
    "💡 Tip",
    "GPU available",
    "TPU available",
    "HPU available",
    "Seed set to",
    "`Trainer.fit` stopped",
    "litlogger",
    "LitModels",
    "Loading `train_dataloader`",
    "Restoring states",
    "Loaded model weights",
)
_WARNED = (
    r".*does not have many workers",
    r".*is smaller than the logging interval",
    r".*LightningCLI's args parameter is intended",
    r".*Experiment logs directory",  # a resumed run keeps its rows, see run/loggers.py
    r".*Checkpoint directory .* exists and is not empty",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",
    r".*GPU available but not used",
    r".*The `srun` command is available on your system but is not used",
    r"You're using the WeightAveraging callback, but loading a checkpoint outside",  # its average is what is loaded
    r"Be aware that when using `ckpt_path`, callbacks",  # testing needs no callbacks of training
)


def quiet() -> None:
    """Hide messages about which a user can do nothing."""
    for message in _WARNED:
        warnings.filterwarnings("ignore", message=message)
    for name in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric.utilities.seed",
        "lightning.fabric.utilities.rank_zero",
    ):
        logger = logging.getLogger(name)
        if _wanted not in logger.filters:
            logger.addFilter(_wanted)


def _wanted(entry: logging.LogRecord) -> bool:
    return not any(text in entry.getMessage() for text in _LOGGED)
