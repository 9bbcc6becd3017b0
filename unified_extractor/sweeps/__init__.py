"""Sweeps: a grid of variants, settings and seeds; every cell is a ``uniex fit`` command, run by submitit."""

from unified_extractor.extras import require

require("train", __name__)
