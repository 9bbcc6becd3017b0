"""The command ``uniex visualize``: sampling points, kernels and receptive fields of trained networks on a test image."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from unified_extractor.profiling.extractors import extractors
from unified_extractor.results.record import Record
from unified_extractor.results.sources import find_runs, read_run, unfinished_runs
from unified_extractor.training.errors import ConfigurationError
from unified_extractor.training.run.finished_run import load_run
from unified_extractor.visualize.receptive_field import draw_receptive_fields
from unified_extractor.visualize.window_drawings import draw_windows


def main(arguments: Sequence[str]) -> int:
    """Draw sampling points and kernels of the runs in or below the given folders, on one image. Return the exit code."""
    parser = argparse.ArgumentParser("uniex visualize", description="Draw where trained networks look, and with which weights.")
    parser.add_argument("folders", nargs="+", type=Path, help="run folders of one data set, or folders with runs below them")
    parser.add_argument("--image", type=int, default=0, help="which test image, counted from 0")
    parser.add_argument("--layer", type=int, default=0, help="which extractor of each network, counted from the input")
    parser.add_argument(
        "--receptive_fields",
        type=int,
        metavar="COUNT",
        help="draw every stage's effective receptive field on so many test images instead",
    )
    parser.add_argument(
        "--output", type=Path, help="the picture (default windows.png, receptive_fields.png, in the first folder)"
    )
    parser.add_argument("--unfinished", action="store_true", help="also runs that are not finished, at their best epoch so far")
    given = parser.parse_args(arguments)
    try:
        runs = find_runs(given.folders, unfinished=given.unfinished)
        left_out = unfinished_runs(given.folders, taken=given.unfinished)
        names = run_names([read_run(run) for run in runs])
        loaded = dict(zip(names, map(load_run, runs), strict=True))
        data = next(iter(loaded.values()))[1]
        for name, (network, other) in loaded.items():
            if (type(other), other.in_chans, other.image_size) != (type(data), data.in_chans, data.image_size):
                raise ConfigurationError(f"{name} was trained on other images than the first run: {type(other).__name__}")
            count = len(extractors(network))
            if not 0 <= given.layer < count:
                raise ConfigurationError(f"--layer must be below the number of extractors of {name}, {count}, got {given.layer}")
        images = data.images("test")
        if not 0 <= given.image < len(images):  # type: ignore[arg-type]
            raise ConfigurationError(f"--image must be below the number of test images, {len(images)}, got {given.image}")  # type: ignore[arg-type]
        networks = {name: network for name, (network, _) in loaded.items()}
        if given.receptive_fields is not None:
            about = f"{_check_count(given.receptive_fields, len(images))} test images"  # type: ignore[arg-type]
            chosen = torch.linspace(0, len(images) - 1, given.receptive_fields).long()  # type: ignore[arg-type]
            figure = draw_receptive_fields(networks, data.normalize(torch.stack([images[int(i)][0] for i in chosen])))
        else:
            pixels, label = images[given.image]
            about = f"test image {given.image}, {data.label_in_words(label)}"
            shown = (pixels.permute(1, 2, 0) if len(pixels) == 3 else pixels[0]) / 255
            figure = draw_windows(networks, data.normalize(pixels[None]), layer=given.layer, shown=shown)
        picture = given.output or given.folders[0] / ("windows.png" if given.receptive_fields is None else "receptive_fields.png")
        picture.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(picture, dpi=130)
    except (ValueError, OSError) as error:
        parser.exit(2, f"uniex: error: {error}\n")
    print(f"written: {picture} ({about})")
    for reason in left_out:
        print(f"left out: {reason}")
    return 0


def run_names(rows: Sequence[Record]) -> list[str]:
    """Return the names of the variants, with seeds where several runs share a name, and folders where they share the seed too."""
    variants = [row.variant for row in rows]
    seeds = [f"{row.variant} seed={row.seed}" for row in rows]
    folders = [f"{name} {row.place}" for name, row in zip(seeds, rows, strict=True)]
    return next((names for names in (variants, seeds) if len(set(names)) == len(rows)), folders)


def _check_count(count: int, available: int) -> int:
    if not 1 <= count <= available:
        raise ConfigurationError(f"--receptive_fields must be between 1 and the number of test images, {available}, got {count}")
    return count
