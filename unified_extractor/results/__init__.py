"""Rows of finished runs, and the tables and statistics made from them. Reads records alone."""

from unified_extractor.extras import require

require("train", __name__, "pandas", "matplotlib", "scipy")
