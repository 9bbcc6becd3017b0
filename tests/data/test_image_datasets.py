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
