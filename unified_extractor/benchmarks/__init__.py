"""Benchmarks of the operator beside its baselines: what a user would run instead."""
