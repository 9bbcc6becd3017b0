"""Figures of results, and drawings of kernels, sampling points and receptive fields."""
