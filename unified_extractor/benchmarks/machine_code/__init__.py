"""The Triton kernels' machine code, compiled for a GPU that is not there and counted."""
