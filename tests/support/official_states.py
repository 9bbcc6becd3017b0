"""Random state dicts with the names and shapes of official code: a network's own state renamed by the tables under test.

Names and shapes come from the tables, values are random; whether names, places and conventions are right is decided by comparing
outputs with an independent formula or a live peer.
"""

import torch

from unified_extractor.interop.official import FAMILIES


def randomized(values):
    """Random values of the same shapes that keep activations of a deep network in range; variances are positive."""
    values_by_name = {}
    for name, value in values.items():
        if not value.is_floating_point():
            values_by_name[name] = value.clone()
        elif name.endswith("running_var"):
            values_by_name[name] = torch.rand_like(value) + 0.5
        elif value.dim() > 1:
            values_by_name[name] = torch.randn_like(value) / max(1, value[0].numel()) ** 0.5
        else:
            values_by_name[name] = torch.randn_like(value) * 0.2 + (1.0 if "weight" in name or "gamma" in name else 0.0)
    return values_by_name


def official_state(network, family, linear=()):
    """A random official state dict for this network; the weights of layers named in ``linear`` are matrices there."""
    own = network.state_dict()
    shapes = {}
    for key, rule in FAMILIES[family].rules(network):
        shape = own[rule.ours].shape
        matrix = len(shape) == 4 and any(part in key for part in linear)
        shapes[key] = torch.empty(shape[:2] if matrix else shape, dtype=own[rule.ours].dtype)
        if not shapes[key].is_floating_point():
            shapes[key].zero_()
    return randomized(shapes)
