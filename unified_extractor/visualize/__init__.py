"""Figures of results, and drawings of kernels, sampling points and receptive fields."""

from unified_extractor.extras import require

require("train", __name__)
