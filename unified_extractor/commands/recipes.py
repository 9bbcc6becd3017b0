"""The command ``uniex recipes``: the configurations that come with the package."""

import argparse
from collections.abc import Sequence

from unified_extractor.recipes import about, copy_recipe, recipe_names


def main(arguments: Sequence[str]) -> int:
    """List the recipes, or copy one. Return the exit code."""
    parser = argparse.ArgumentParser(
        "uniex recipes",
        description="List the configurations that come with the package; uniex fit --config NAME trains by one, sweeps/... are for "
        "uniex sweep NAME.",
    )
    copy = parser.add_subparsers(dest="command", metavar="copy").add_parser("copy", help="copy one, to change it")
    copy.add_argument("name", metavar="NAME", help="the recipe, such as digits/unified")
    copy.add_argument("destination", metavar="DEST", help="the new file, FILE.yaml, or its folder")
    given = parser.parse_args(arguments)
    if given.command is None:
        width = max(map(len, recipe_names()))
        print("\n".join(f"{name:{width}}  {about(name)}" for name in recipe_names()))
        return 0
    try:
        files = copy_recipe(given.name, given.destination)
    except (ValueError, OSError) as error:
        parser.exit(2, f"uniex: error: {error}\n")
    print(f"written: {', '.join(map(str, files))}")
    return 0
