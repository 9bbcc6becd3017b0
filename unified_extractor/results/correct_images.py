"""The test images that a run got right: a bit for each, as the text that a row holds."""

import base64
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]


def packed(correct: Sequence[bool] | Flags) -> str:
    """Return base64 of one bit an image, the first image in the highest bit of the first byte; the end is filled up with zeros."""
    return base64.b64encode(np.packbits(np.asarray(correct, dtype=bool)).tobytes()).decode()


def unpacked(text: str, images: int) -> Flags:
    """Return one flag for each of ``images`` images. Raises ``ValueError`` for a text that does not hold as many."""
    content = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    if len(content) != -(-images // 8):
        raise ValueError(f"the bits of {images} images must be {-(-images // 8)} bytes, got {len(content)}")
    return np.unpackbits(content, count=images).astype(bool)
