"""A finished run, loaded again: its network with the best epoch's weights, and its data."""

from pathlib import Path

import yaml
from jsonargparse import ArgumentParser
from torch import nn

from unified_extractor.data import VisionDataModule
from unified_extractor.options import with_present_names
from unified_extractor.training.architecture import check_checkpoint, network_weights
from unified_extractor.training.errors import ConfigurationError
from unified_extractor.training.run.checkpoint_task import give_task, normalize_as, read_task
from unified_extractor.training.run.checkpoints import read_checkpoint
from unified_extractor.training.run.folder import CHECKPOINTS


def load_run(run: str | Path) -> tuple[nn.Module, VisionDataModule]:
    """Return the network of a run's folder, on the CPU in eval mode, with its ``task``, and its data module.

    Args:
        run: folder ``version_<N>`` that ``uniex fit`` wrote. The best epoch's weights are loaded; their average, if one was kept.

    Raises:
        ConfigurationError: the folder lacks a file that ``uniex fit`` writes, or the weights belong to another network.
    """
    config, checkpoint = Path(run) / "config.yaml", Path(run) / CHECKPOINTS / "best.ckpt"
    for path in (config, checkpoint):
        if not path.is_file():
            raise ConfigurationError(f"{path}: no such file")
    settings = yaml.safe_load(config.read_text())
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, "network")
    parser.add_subclass_arguments(VisionDataModule, "data")
    parts = with_present_names({"network": settings["model"]["network"], "data": settings["data"]})
    built = parser.instantiate_classes(parser.parse_object(parts))
    saved = read_checkpoint(checkpoint)
    weights = network_weights(saved["state_dict"])
    check_checkpoint(checkpoint, built.network, saved.get("layer_specs", {}), weights)
    built.network.load_state_dict(weights)
    if (task := read_task(saved)) is not None:
        normalize_as(checkpoint, task, built.data)
        give_task(built.network, task)
    return built.network.eval(), built.data
