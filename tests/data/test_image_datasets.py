"""Reading image files: every size becomes square, every depth eight bits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.image_folders import write_images
from unified_extractor.data import DataError
from unified_extractor.data.image_datasets import ImageFormat, read_image


@pytest.mark.parametrize(("size", "wanted"), [((8, 8), 8), ((20, 9), 8), ((9, 20), 7), ((5, 6), 8)])
def test_images_of_any_size_become_square(tmp_path: Path, size: tuple[int, int], wanted: int):
    write_images(tmp_path, 1, size=size)
    assert read_image(tmp_path / "0.png", ImageFormat(3, wanted)).shape == (3, wanted, wanted)
    assert read_image(tmp_path / "0.png", ImageFormat(3, wanted, resize=wanted + 3)).shape == (3, wanted, wanted)
    assert read_image(tmp_path / "0.png", ImageFormat(3, wanted, whole=True)).shape[1:] == size
    gray = read_image(tmp_path / "0.png", ImageFormat(1, wanted))
    assert gray.shape == (1, wanted, wanted)
    assert gray.dtype == torch.uint8


def test_sixteen_bit_gray_levels_are_scaled_not_cut(tmp_path: Path):
    levels = (np.arange(64, dtype=np.uint32) * 65535 // 63).astype(np.uint16).reshape(8, 8)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    for chans in (1, 3):
        image = read_image(tmp_path / "deep.png", ImageFormat(chans, 8))
        assert torch.equal(image, torch.from_numpy((levels // 257).astype(np.uint8)).expand(chans, 8, 8))
    Image.fromarray(np.ones((8, 8), dtype=np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(DataError, match="F images have no range of gray levels"):
        read_image(tmp_path / "float.tiff", ImageFormat(1, 8))


QUARTERS = np.array([[0, 64], [128, 255]], dtype=np.uint8)
"""An image whose turns and mirror images all differ."""


@pytest.mark.parametrize("extension", ["png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright_as_their_exif_orientation_says(tmp_path: Path, orientation: int, extension: str):
    stored = np.stack([QUARTERS] * 3, 2)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"phone.{extension}"
    Image.fromarray(stored).save(path, exif=exif, lossless=True) if extension == "webp" else Image.fromarray(stored).save(
        path, exif=exif
    )
    upright = {
        1: QUARTERS,
        2: QUARTERS[:, ::-1],
        3: QUARTERS[::-1, ::-1],
        4: QUARTERS[::-1],
        5: QUARTERS.T,
        6: QUARTERS.T[:, ::-1],
        7: QUARTERS.T[::-1, ::-1],
        8: QUARTERS.T[::-1],
    }[orientation]
    assert read_image(path, ImageFormat(3, 2))[0].tolist() == upright.tolist()


def test_a_photograph_on_its_side_is_turned_before_it_is_resized_and_cropped(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "phone.jpg", exif=exif)
    assert read_image(tmp_path / "phone.jpg", ImageFormat(3, 30, whole=True)).shape == (3, 40, 30)
    deep = Image.fromarray(np.zeros((30, 40), dtype=np.uint16))
    for compression in (None, "tiff_lzw"):
        deep.save(tmp_path / "deep.tiff", exif=exif, compression=compression)
        assert read_image(tmp_path / "deep.tiff", ImageFormat(1, 30, whole=True)).shape == (1, 40, 30)


def test_damaged_exif_data_leave_an_image_readable(tmp_path: Path):
    Image.new("RGB", (4, 3)).save(tmp_path / "odd.jpg", exif=b"Exif\x00\x00not a header")
    assert read_image(tmp_path / "odd.jpg", ImageFormat(3, 3, whole=True)).shape == (3, 3, 4)


def test_white_stands_behind_what_is_transparent(tmp_path: Path):
    """A pixel is opaque red, one is half transparent black, two are transparent black."""
    pixels = np.zeros((2, 2, 4), dtype=np.uint8)
    pixels[0, 0], pixels[0, 1] = (255, 0, 0, 255), (0, 0, 0, 128)
    Image.fromarray(pixels).save(tmp_path / "rgba.png")
    image = read_image(tmp_path / "rgba.png", ImageFormat(3, 2))
    assert image.flatten(1).T.tolist() == [[255, 0, 0], [127, 127, 127], [255, 255, 255], [255, 255, 255]]
    Image.fromarray(np.array([[[0, 255], [0, 0]]] * 2, dtype=np.uint8)).save(tmp_path / "la.png")
    assert read_image(tmp_path / "la.png", ImageFormat(1, 2)).tolist() == [[[0, 255], [0, 255]]]
    palette = Image.fromarray(np.array([[0, 1], [1, 0]], dtype=np.uint8)).convert("P")
    palette.putpalette([9, 9, 9, 200, 100, 50])
    palette.save(tmp_path / "palette.png", transparency=0)
    palette.save(tmp_path / "opaque.png")
    assert read_image(tmp_path / "palette.png", ImageFormat(3, 2))[:, 0].T.tolist() == [[255, 255, 255], [200, 100, 50]]
    assert read_image(tmp_path / "opaque.png", ImageFormat(3, 2))[:, 0].T.tolist() == [[9, 9, 9], [200, 100, 50]]
    Image.new("RGB", (2, 2), (0, 0, 0)).save(tmp_path / "key.png", transparency=(0, 0, 0))
    assert read_image(tmp_path / "key.png", ImageFormat(3, 2)).unique().tolist() == [255]


def test_other_modes_are_read_as_what_they_show(tmp_path: Path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=100)
    red = read_image(tmp_path / "print.jpg", ImageFormat(3, 8))[:, 0, 0].int()
    assert (red - torch.tensor([255, 0, 0])).abs().max() < 8
    Image.new("1", (2, 2), 1).save(tmp_path / "binary.png")
    assert read_image(tmp_path / "binary.png", ImageFormat(3, 2)).unique().tolist() == [255]
    (tmp_path / "deep.pgm").write_bytes(b"P5 2 1 65535\n" + np.array([0x8000, 0xFFFF], dtype=">u2").tobytes())
    assert read_image(tmp_path / "deep.pgm", ImageFormat(1, 1, whole=True)).tolist() == [[[127, 255]]]
