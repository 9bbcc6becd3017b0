"""Class folders of Omniglot's characters from its zip file, split by drawer: nobody who drew for training draws for the test.

    python experiments/protocol/omniglot.py images_background_small1.zip data/omniglot

Every character is a class, drawn once by each of twenty people: 12 of them for training, 3 to choose by, 5 for the test.
"""

import argparse
import re
import sys
import zipfile
from pathlib import Path

NAME = re.compile(r"(?P<alphabet>[^/]+)/(?P<character>character\d+)/\d+_(?P<drawer>\d+)\.png$")
TRAINING, CHOOSING = 12, 15
"""The last drawer of the training images, and of the validation images; the rest draw for the test."""


def split_of(drawer: int) -> str:
    """Return the split of a drawer, counted from 1."""
    return "train" if drawer <= TRAINING else "val" if drawer <= CHOOSING else "test"


def main() -> int:
    parser = argparse.ArgumentParser("omniglot.py", description="Omniglot as class folders, split by drawer.")
    parser.add_argument("zip", type=Path, help="images_background_small1.zip of Lake et al. (2015), or another of its zip files")
    parser.add_argument("folder", type=Path, help="where train, val and test go; must not exist")
    given = parser.parse_args()
    given.folder.mkdir(parents=True)
    count = 0
    with zipfile.ZipFile(given.zip) as archive:
        for member in archive.namelist():
            if found := NAME.search(member):
                folder = given.folder / split_of(int(found["drawer"])) / f"{found['alphabet']}_{found['character']}"
                folder.mkdir(parents=True, exist_ok=True)
                (folder / Path(member).name).write_bytes(archive.read(member))
                count += 1
    if not count:
        print(f"{given.zip}: holds no <alphabet>/<character>/<id>_<drawer>.png", file=sys.stderr)
        return 1
    print(f"written: {given.folder}, {count} images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
