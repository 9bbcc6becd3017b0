"""Benchmarks of the operator beside its baselines: what a user would run instead."""

from unified_extractor.extras import require

require("train", __name__, "lightning", "torchvision", "pandas", "rich")
