"""Which files in a folder are images, and what is left out and why."""

from pathlib import Path

import pytest

from tests.support.image_folders import write_images
from unified_extractor.data import DataError
from unified_extractor.data.copies import CopyFinder
from unified_extractor.data.image_files import find_images, in_words


def names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in find_images(folder).files]


def test_hidden_files_and_folders_never_count_on_any_level(tmp_path: Path):
    folder = tmp_path / ".cache" / "cat"  # that the folder itself lies in a hidden one says nothing
    write_images(folder, 1)
    for place in (".ipynb_checkpoints", "__MACOSX", "deep/er/.thumbnails", "deep/er/__MACOSX/x", "@eaDir/0.png"):
        write_images(folder / place, 2)
    write_images(folder / "deep" / "er", 1)
    (folder / "deep" / "._0.png").write_bytes(b"")
    (folder / "Thumbs.db").write_bytes(b"")
    (folder / "labels.TXT").write_text("")
    (folder / "README").write_text("")
    (folder / "UPPER.PNG").write_bytes((folder / "0.png").read_bytes())
    assert names(folder) == ["0.png", "UPPER.PNG", "deep/er/0.png"]
    assert in_words(find_images(folder).left_out) == (
        "left out: .db files (1), .txt files (1), extensionless files (1), hidden files (1), hidden folders (5)"
    )


def test_links_are_followed_and_circles_of_links_end(tmp_path: Path):
    folder, other = tmp_path / "set" / "cat", tmp_path / "other"
    write_images(folder, 1)
    write_images(other / "inner", 2)
    write_images(tmp_path / "set" / "dog", 1)
    (folder / "more").symlink_to(other)
    (folder / "single.png").symlink_to(other / "inner" / "0.png")
    assert names(folder) == ["0.png", "more/inner/0.png", "more/inner/1.png", "single.png"]
    (folder / "self").symlink_to(folder)
    (folder / "up").symlink_to(tmp_path / "set")
    (other / "inner" / "back").symlink_to(folder)
    (folder / "again").symlink_to(other / "inner")
    found = find_images(folder)
    assert sorted(path.name for path in found.files) == ["0.png", "0.png", "1.png", "single.png"]
    assert found.left_out == {"links to folders that are listed already": 4}


def test_a_folder_without_images_says_what_is_in_it(tmp_path: Path):
    for name in ("a.heic", "b.HEIC", ".c.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(
        DataError, match=r"no images in this folder, looked for .*; left out: \.heic files \(2\), hidden files \(1\)$"
    ):
        find_images(tmp_path)


def test_copies_are_files_of_equal_bytes(tmp_path: Path):
    contents = {"a": b"x" * 40_000, "b": b"x" * 40_000, "c": b"x" * 39_999 + b"y", "d": b"x", "e": b"", "f": b"x"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in (*contents, "missing")]
    assert CopyFinder().find(paths[1:], paths[:1]) == [0]
    assert CopyFinder().find(paths[:5], [paths[5], paths[6]]) == [3]
    assert CopyFinder().find(paths, []) == []
