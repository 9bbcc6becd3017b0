"""The pages that are written when the site is built: a drawing of every preset, and all options of every command."""

import contextlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

from unified_extractor.__main__ import _OTHERS, _TRAINING, main
from unified_extractor.named_specs import preset_names

COMMANDS = {
    "fit": "Train a network, test its best epoch, write a record.",
    "validate": "Evaluate a checkpoint on the validation images. Its options are those of fit, and:",
    "test": "Evaluate a checkpoint on the test images. Its options are those of fit, and:",
    "predict": "Classify or segment images of your own. Its options are those of fit, and:",
    "recipes": "",
    "demo": "",
    "describe": "",
    "sweep": "",
    "report": "",
    "visualize": "",
    "explore": "",
    "bench": "",
    "gpu": "",
    "compile": "",
}
"""A sentence for each command whose help has none."""


def write_pages(folder: Path) -> None:
    """Write the generated pages into a folder."""
    folder.mkdir(exist_ok=True)
    (folder / "presets.md").write_text("\n\n".join(_presets(folder)) + "\n")
    (folder / "command_line.md").write_text("\n\n".join(_command_line()) + "\n")


def _presets(folder: Path) -> Iterator[str]:
    """Yield the sections of the gallery, and draw its figures into a folder."""
    yield "# The presets, drawn"
    yield (
        "Where the taps look, with which weight, and which channels share it. A preset is no trained layer: learned offsets and generated "
        "kernels are drawn as fixed random numbers. `uniex describe NAME` prints this for any spec."
    )
    for name in preset_names():
        versions = [f"{name}({version})" for version in (1, 2, 3, 4)] if name == "deformable_convolution" else [name]
        for call in versions:
            picture = f"{re.sub('[()]', '', call)}.png"
            options = [f"version={call[-2]}"] if call != name else []
            text = _printed(["describe", name, *options, "--picture", str(folder / picture)])
            first = text.partition("\n")[2].rpartition("\n  drawn in")[0].strip("\n")
            sentence = f"[{name}](../reference/spec.md#presets)"
            yield f"## {call}\n\n{sentence}\n\n![Where, with which weight, who shares it: {call}]({picture})\n\n```text\n{first}\n```"


def _command_line() -> Iterator[str]:
    """Yield the sections of the page of all commands."""
    assert COMMANDS.keys() == {*_TRAINING, *_OTHERS}, "the page of all commands has one more or less"
    yield "# Command line"
    yield f"```text\n{_printed(['--help']).strip()}\n```"
    of_fit: set[str] = set()
    for command, sentence in COMMANDS.items():
        text = _printed([command, "--help"])
        options = text.partition("\n\n")[2].strip("\n")
        if command == "fit":
            of_fit = set(options.split("\n"))
        elif "those of fit" in sentence:
            options = "\n".join(_own(options, of_fit))
        yield f"## uniex {command}"
        if sentence:
            yield sentence
        if sentence == "" or command == "fit":
            usage = text.partition("\n\n")[0]
            if command != "fit":
                yield f"```text\n{usage}\n```"
        yield f"```text\n{options}\n```" if options else "none of its own."


def _own(options: str, others: set[str]) -> Iterator[str]:
    """Yield the options, with the lines of their help, that others do not have."""
    entries = re.split(r"\n(?=  -)", options)
    return (entry for entry in entries if entry.startswith("  -") and entry.split("\n")[0] not in others)


def _printed(arguments: list[str]) -> str:
    """Return what a command prints, on lines of at most 88 characters."""
    os.environ["COLUMNS"] = "88"
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main(arguments)
    return out.getvalue().replace("\b", "")
