"""The image files in a folder: which files count, and what is left out and why."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unified_extractor.data.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Extensions of image files, in lower case."""
SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
"""Names of folders that archives, file servers and operating systems make by themselves."""


@dataclass
class ImageListing:
    """The image files that were found, and the number of files and folders that were left out for each reason.

    Attributes:
        files: image files, sorted by their path inside each folder.
        left_out: number of files or folders for each reason in words.
    """

    files: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def is_hidden(name: str) -> bool:
    """Return True for the name of a file or folder that is never data, because a person does not see it or did not make it."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


def find_images(folder: Path) -> ImageListing:
    """Return the image files in ``folder`` and below.

    Hidden files and folders do not count, see :func:`is_hidden`; ``folder`` itself may be hidden. Links to folders are followed, but
    no folder is listed twice, so a circle of links ends.

    Raises:
        DataError: ``folder`` is missing, has no image, or a folder in it cannot be listed.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    found = ImageListing()
    own = folder.resolve()
    listed = {own}
    for place, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        below = []
        for name in sorted(folders, key=lambda name: (os.path.islink(os.path.join(place, name)), name)):
            target = Path(place, name).resolve()
            if is_hidden(name):
                found.left_out["hidden folders"] += 1
            elif target in listed or own.is_relative_to(target):
                found.left_out["links to folders that are listed already"] += 1
            else:
                listed.add(target)
                below.append(name)
        folders[:] = below
        for name in names:
            if is_hidden(name):
                found.left_out["hidden files"] += 1
            elif not name.lower().endswith(EXTENSIONS):
                found.left_out[f"{Path(name).suffix.lower() or 'extensionless'} files"] += 1
            else:
                found.files.append(Path(place, name))
    found.files.sort(key=lambda path: path.parts)
    if not found.files:
        reason = in_words(found.left_out)
        raise DataError(f"{folder}: no images in this folder, looked for {' '.join(EXTENSIONS)}{reason and f'; {reason}'}")
    return found


def find_named_images(places: Sequence[Path]) -> ImageListing:
    """Return the images that a user names: of a folder those in it and below, and every file as it is, whatever its extension.

    Raises:
        DataError: a place does not exist, or a folder has no image.
    """
    found = ImageListing()
    for place in places:
        if place.is_dir():
            listing = find_images(place)
            found.files += listing.files
            found.left_out += listing.left_out
        elif place.exists():
            found.files.append(place)
        else:
            raise DataError(f"{place}: no such file or folder", "predict_folder")
    return found


def in_words(left_out: Counter[str]) -> str:
    """Return ``left out: hidden files (2), .txt files (1)`` for the numbers of what was left out, or nothing."""
    parts = [f"{reason} ({count:,})" for reason, count in sorted(left_out.items())]
    return f"left out: {', '.join(parts)}" if parts else ""


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: this folder cannot be listed: {error.strerror}") from error
