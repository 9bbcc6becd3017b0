"""Functions of an image under the transforms of ``torch.func``."""

import torch


def under_grad(call, x):
    """Return the gradient of a function's sum."""
    return torch.func.grad(lambda x: call(x).sum())(x)


def under_vmap(call, x):
    """Return a function's results for two images, batched."""
    return torch.func.vmap(call)(torch.stack([x, x]))
