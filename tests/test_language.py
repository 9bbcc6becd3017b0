"""The words of this code: identifiers without the retired ones, docstrings that can be read by themselves.

Run as a script, this file lists what is left: ``python tests/test_language.py``.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "unified_extractor"

RETIRED = {"moved", "moves", "alone", "unmix", "mixes", "pulled", "pull", "eights"}
"""Words with a plainer one in this field: offsets, depthwise, gradient, backward."""
BRITISH = re.compile(
    "(normal|initial|optim|visual|general|parametr|summar|organ)is(e|ation|ing)|centre|neighbour|colour|behaviour|favour|(label|model)l(ed|ing)|grey"
)
WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

RIDDLES = re.compile(
    r"(What|Of|How|Where|Whether|Its|As|The same|None|For|From|By|In|With|That|Which|Who|When|If|To|Behind|Beside)\b"
)
"""First words of a docstring that cannot be read without what stands around it."""


def parsed(*folders: Path) -> Iterator[tuple[Path, ast.Module]]:
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text())


def identifiers(path: Path, tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield every name of a file, the file's own included, with its line."""
    yield from ((name, 1) for name in path.with_suffix("").parts)
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name", "asname"):
            name = getattr(node, field, None)
            if isinstance(name, str):
                yield from ((part, getattr(node, "lineno", 1)) for part in name.split("."))
        if isinstance(node, ast.Global | ast.Nonlocal):
            yield from ((name, node.lineno) for name in node.names)


def retired(name: str) -> bool:
    """Return whether an identifier has a retired word, or a British spelling."""
    return BRITISH.search(name.lower()) is not None or bool(RETIRED & {word.lower() for word in WORDS.findall(name)})


def retired_identifiers() -> list[str]:
    files = parsed(PACKAGE, ROOT / "tests", ROOT / "experiments")
    return [f"{path}:{line}: {name}" for path, tree in files for name, line in identifiers(path, tree) if retired(name)]


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the docstrings of a file: of itself, of its classes and functions, and those that follow a field or a constant."""
    for node in ast.walk(tree):
        body = getattr(node, "body", [])
        for before, statement in zip([None, *body], body, strict=False) if isinstance(body, list) else ():
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                documented = isinstance(before, ast.Assign | ast.AnnAssign) or before is None
                if documented and isinstance(statement.value.value, str):
                    yield statement.lineno, statement.value.value


def riddles() -> tuple[list[str], int]:
    """Return the docstrings that begin with a riddle, and the number of all."""
    every = [(path, line, text) for path, tree in parsed(PACKAGE) for line, text in docstrings(tree)]
    found = [f"{path}:{line}: {text.strip().splitlines()[0]}" for path, line, text in every if RIDDLES.match(text.strip())]
    return found, len(every)


def test_identifiers_keep_out_the_retired_words():
    assert not retired_identifiers()


@pytest.mark.parametrize(
    "name", ["from_centre", "Neighbours", "optimiser", "overlap_normalise", "a_labelled_point", "grid_moves"]
)
def test_a_retired_word_is_seen_in_an_identifier(name):
    assert retired(name)


@pytest.mark.parametrize("name", ["from_center", "neighbors", "optimizer", "overlap_normalized", "model_labels", "promise"])
def test_a_plain_word_is_not_taken_for_a_retired_one(name):
    assert not retired(name)


def test_docstrings_can_be_read_by_themselves():
    found, number = riddles()
    assert len(found) < 0.05 * number, found


if __name__ == "__main__":
    left = retired_identifiers()
    found, number = riddles()
    print(*left, *found, sep="\n")
    print(f"{len(left)} retired identifiers, {len(found)} of {number} docstrings begin with a riddle")
