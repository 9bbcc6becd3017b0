"""Sweeps: a grid of variants, settings and seeds; every cell is a ``uniex fit`` command, run by submitit."""
