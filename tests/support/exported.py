"""The comparison of exported programs with the modules that they come from."""

import torch
from torch.export import Dim


def assert_one_program_serves_a_range(module, x, smallest, sizes):
    """Export with named ranges of batch, height and width, and compare the program with the module at several sizes."""
    names = {0: Dim("batch", min=1, max=64), 2: Dim("height", min=smallest, max=1024), 3: Dim("width", min=smallest, max=1024)}
    program = torch.export.export(module, (x,), dynamic_shapes=(names,)).module()
    for batch, height, width in sizes:
        images = torch.randn(batch, x.shape[1], height, width)
        with torch.no_grad():
            torch.testing.assert_close(program(images), module(images), rtol=1e-4, atol=1e-5)
