"""The command ``uniex``."""

import sys
from collections.abc import Sequence

HELP = """usage: uniex COMMAND ...

  fit, validate, test, predict   train a network, evaluate it, classify images: uniex fit --config configs/digits/unified.yaml
  describe                       an extractor's formula in words, its cost and its drawing: uniex describe involution
  report                         a table and accuracy curves of finished runs: uniex report runs/digits
  visualize                      sampling points and kernels of trained networks: uniex visualize runs/digits

Every command explains its options: uniex COMMAND --help"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; each imports only what it needs. Returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    command, rest = (words[0], words[1:]) if words else ("", [])
    if command in ("fit", "validate", "test", "predict"):
        from unified_extractor.training.cli import main as train

        return train([command, *rest])
    if command == "describe":
        from unified_extractor.commands.describe import main as run
    elif command == "report":
        from unified_extractor.commands.report import main as run
    elif command == "visualize":
        from unified_extractor.commands.visualize import main as run
    else:
        asked = command in ("", "-h", "--help")
        print(HELP if asked else f"uniex: error: no command {command!r}\n{HELP}", file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    return run(rest)


if __name__ == "__main__":
    sys.exit(main())
