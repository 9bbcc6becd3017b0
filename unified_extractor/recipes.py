"""The recipes: complete configurations that come with the package, by name. ``digits/unified`` is the file ``configs/digits/unified.yaml``.

Standard library only.
"""

import re
import shutil
from pathlib import Path

from unified_extractor.names import did_you_mean

_INSTALLED, _CHECKOUT = Path(__file__).parent / "configs", Path(__file__).parents[1] / "configs"
FOLDER = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
"""The folder of the recipes: a wheel has it in the package, a checkout beside it."""
_SPECS = "extractor"
"""The folder of specs, which are no runs."""
_SPEC_FILE = re.compile(rf"\.\./{_SPECS}/(\w+)\.yaml")
"""The file of a preset's spec in a recipe, whose place a preset's name takes in a copy."""


def recipe_names() -> list[str]:
    """Return the names of all recipes, those of sweeps among them."""
    files = sorted(path.relative_to(FOLDER).with_suffix("") for path in FOLDER.rglob("*.yaml"))
    return [file.as_posix() for file in files if file.parts[0] != _SPECS]


def recipe_file(name: str) -> Path:
    """Return the file of a recipe. Raise ``ValueError`` for an unknown name."""
    if name not in recipe_names():
        raise ValueError(f"no recipe {name!r}{did_you_mean(name, recipe_names()) or '; uniex recipes lists them'}")
    return FOLDER / f"{name}.yaml"


def about(name: str) -> str:
    """Return the first line of a recipe, which says in a sentence what it trains."""
    return recipe_file(name).read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def as_file(text: str | Path) -> Path:
    """Return the path of a file; where none is there, that of the recipe of this name, or of the file of ``configs/`` in the package."""
    path, name = Path(text), Path(text).as_posix().removeprefix("configs/")
    if path.is_file():
        return path
    packaged = {file.relative_to(FOLDER).as_posix(): file for file in FOLDER.rglob("*.*")}
    return packaged.get(name) or packaged.get(f"{name}.yaml") or path


def copy_recipe(name: str, destination: str | Path) -> list[Path]:
    """Copy a recipe, and the tables that it names beside it. Return the new files.

    Args:
        name: the recipe.
        destination: the new file, which ends in ``.yaml``, or the folder of the new files; a missing folder is made.

    Raises:
        ValueError: there is no such recipe.
        FileExistsError: a file of the name is there already.
    """
    source, destination = recipe_file(name), Path(destination)
    target = destination if destination.suffix == ".yaml" else destination / source.name
    text = source.read_text(encoding="utf-8")
    tables = [file for file in sorted(source.parent.glob("*.csv")) if file.name in text]
    files = {source: target} | {table: target.parent / table.name for table in tables}
    for file in files.values():
        if file.exists():
            raise FileExistsError(f"{file} is there already")
    target.parent.mkdir(parents=True, exist_ok=True)
    for old, new in files.items():
        shutil.copyfile(old, new)
    for table in tables:
        text = text.replace(f"configs/{table.relative_to(FOLDER).as_posix()}", files[table].as_posix())
    text = _SPEC_FILE.sub(r"\1", text).replace(f"configs/{name}.yaml", target.as_posix())
    target.write_text(text, encoding="utf-8")
    return list(files.values())
