"""The entry point of the command ``uniex``."""

import importlib
import signal
import sys
from collections.abc import Sequence

import unified_extractor
from unified_extractor.extras import MissingExtraError, require
from unified_extractor.names import did_you_mean

HELP = """usage: uniex COMMAND ...

  fit, validate, test, predict   train a network, evaluate it, classify or segment images: uniex fit --config digits/unified
  recipes                        the configurations that come with the package: uniex recipes; uniex recipes copy digits/unified mine.yaml
  demo                           five extractors trained on digits, their table and pictures, in about a minute: uniex demo
  describe                       the formula of an extractor in words, its cost and its drawing: uniex describe involution
  bench                          the speed of the operator beside its baselines: uniex bench cpu
  gpu                            values, speed, counters and tests on a GPU, in nine minutes: uniex gpu --list
  compile                        the CPU's compiled loops ahead of their first use, for container images: uniex compile
  sweep                          a grid of variants, settings and seeds, each cell trained: uniex sweep grid.yaml --workers 2
  report                         tables, statistics and figures of finished runs: uniex report runs/digits
  visualize                      sampling points and kernels of trained networks: uniex visualize runs/digits
  explore                        an interactive page of where trained networks look: uniex explore runs/digits --image photo.jpg

Every command explains its options: uniex COMMAND --help"""
_TRAINING = ("fit", "validate", "test", "predict")
_ONLY_PRINTED = {"-h", "--help", "--print_config", "--dry_run"}
_CORE = ("compile", "describe", "recipes")
"""The commands that need no extra."""
_NEEDED = dict.fromkeys(("bench", "gpu"), ("lightning", "torchvision", "pandas", "rich"))
"""The packages of training that commands need which run on machines without the others."""
_OTHERS = ("bench", "compile", "demo", "describe", "explore", "gpu", "recipes", "report", "sweep", "visualize")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. Each command imports only what it needs."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None and hasattr(signal, "SIGPIPE") and (words[:1] not in [["fit"], ["sweep"]] or _ONLY_PRINTED & set(words)):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader such as ``head`` may go away, and ends this process quietly
    try:
        return _run(words)
    except MissingExtraError as error:
        print(f"uniex: error: {error}", file=sys.stderr)
        return 2


def _run(words: list[str]) -> int:
    command, rest = (words[0], words[1:]) if words else ("", [])
    if command in _TRAINING + _OTHERS and command not in _CORE:
        require("train", f"uniex {command}", *_NEEDED.get(command, ()))
    if command in _TRAINING:
        from unified_extractor.config_files import unreadable_config, with_recipes

        words = with_recipes(words)
        if reason := unreadable_config(words):
            print(f"uniex: error: {reason}", file=sys.stderr)
            return 2
        from unified_extractor.training.cli import training_cli

        return training_cli.main(words)
    if command in _OTHERS:
        return importlib.import_module(f"unified_extractor.commands.{command}").main(rest)
    if command == "--version":
        print(unified_extractor.__version__)
        return 0
    if command in ("", "-h", "--help"):
        print(HELP)
        return 0
    print(f"uniex: error: no command {command!r}{did_you_mean(command, _TRAINING + _OTHERS)}\n{HELP}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
