"""The command ``uniex explore``: an interactive page of where trained networks look on a photograph."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from unified_extractor.commands.visualize import run_names
from unified_extractor.data.image_transform import ImageTransform
from unified_extractor.results.sources import find_runs, read_run
from unified_extractor.training.run.finished_run import load_run
from unified_extractor.training.trained import Trained, is_without_run, load
from unified_extractor.visualize.interactive_page import write_page

_SHOWN = 480
"""Pixels of the longer side of the photograph in the page."""


def main(arguments: Sequence[str]) -> int:
    """Write the page of the runs in or below the given folders, on one photograph. Return the exit code."""
    parser = argparse.ArgumentParser(
        "uniex explore",
        description="Write an interactive page, one HTML file that needs no network: a pointer on a photograph shows where the taps "
        "of trained networks look there, with which weights.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="run folders, folders with runs below them, checkpoints, or folders of saved networks",
    )
    parser.add_argument(
        "--image", type=Path, metavar="FILE", help="a photograph (default: the first test image of the first run)"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE.html", default=Path("explore.html"), help="the page (default explore.html)"
    )
    parser.add_argument(
        "--no_receptive_fields", action="store_true", help="leave the effective receptive fields out, which take most of the time"
    )
    parser.add_argument("--unfinished", action="store_true", help="also runs that are not finished, at their best epoch so far")
    given = parser.parse_args(arguments)
    try:
        sources = _sources(given.runs, unfinished=given.unfinished)
        trained = {name: load(source) for name, source in sources.items()}
        if given.image is None:
            source: Path | Tensor = _first_test_image(next(iter(sources.values())))
        else:
            source = given.image
        networks: dict[str, tuple[nn.Module, Tensor]] = {
            name: (network, transform(source)[None]) for name, (network, _, transform) in trained.items()
        }
        shown = _shown(next(iter(trained.values())), source)
        page = write_page(networks, shown, given.output, receptive_fields=not given.no_receptive_fields)
    except (ValueError, OSError) as error:
        parser.exit(2, f"uniex: error: {error}\n")
    print(f"written: {page} ({len(networks)} networks, {page.stat().st_size / 1e6:.1f} MB)")
    return 0


def _sources(paths: Sequence[Path], *, unfinished: bool) -> dict[str, Path]:
    """Return the runs, checkpoints and saved networks by name."""
    without_run = [path for path in paths if is_without_run(path)]
    runs = find_runs([path for path in paths if path not in without_run], unfinished=unfinished)
    names = run_names([read_run(run) for run in runs])
    return dict(zip(names, runs, strict=True)) | {str(path): path for path in without_run}


def _first_test_image(source: Path) -> Tensor:
    """Return the first test image of a run's data, uint8 ``[C, H, W]``."""
    if is_without_run(source):
        kind = "checkpoint" if source.is_file() else "saved network"
        raise ValueError(f"{source} is a {kind}, which has no test images: name a photograph with --image FILE")
    pixels: Tensor = load_run(source)[1].images("test")[0][0]
    return pixels


def _shown(trained: Trained, source: Path | Tensor) -> Tensor:
    """Return the part of a photograph that a network sees, ``[h, w]`` or ``[h, w, 3]`` in 0..1, finer than the network sees it if it is
    a file."""
    task = trained.transform.task
    sides = [task.image_size] if isinstance(task.image_size, int) else list(task.image_size)
    finer = max(1, _SHOWN // max(sides)) if isinstance(source, Path) else 1
    size = sides[0] * finer if isinstance(task.image_size, int) else [side * finer for side in sides]
    resize = None if task.resize is None else task.resize * finer
    image = ImageTransform(replace(task, image_size=size, resize=resize))(source)
    mean, std = (torch.tensor(values)[:, None, None] for values in (task.mean, task.std))
    pixels = image * std + mean
    return pixels.permute(1, 2, 0) if len(pixels) == 3 else pixels[0]
