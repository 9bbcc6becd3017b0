"""Values that official implementations computed, one file each, and the comparison of our layers with them."""

import json
from pathlib import Path

import torch
from safetensors import safe_open

import unified_extractor as ux
from unified_extractor.interop.official import FAMILIES
from unified_extractor.interop.official.rules import by_halves

FILES = sorted((Path(__file__).parents[1] / "golden").glob("*.safetensors"))


def read(path):
    with safe_open(path, "pt") as file:
        values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return values, json.loads(file.metadata()["spec"])


NO_ARGUMENTS = ("operator", "layout", "source", "mode")
"""What a file says beside the arguments of its operator, where it does not list these."""


def arguments_of(official):
    inferred = {"in_channels": official["channels"]} if official["operator"] == "qna" else {}
    return inferred | official.get("arguments", {}) or {
        name: value for name, value in official.items() if name not in NO_ARGUMENTS
    }


def build(official, kernel_memory="auto"):
    layer = ux.interop.official_layer(official["operator"], **arguments_of(official)).double()
    layer.kernel_memory = kernel_memory
    return layer.train(official["mode"] == "train")


def part(values, prefix):
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def as_ours(layer, official, values):
    """Official gradients have the names and conventions of official parameters, so they convert by the same rules."""
    family = FAMILIES[official["operator"]]
    values, rules = by_halves(values, dict(family.rules(layer)))
    return {rule.ours: rule.convert(values[key]) for key, rule in rules.items() if key in values}


def assert_official_values(path, kernel_memory):
    """Output, input gradient and every parameter gradient equal the values of a file."""
    values, official = read(path)
    layer = build(official, kernel_memory)
    ux.interop.load_official(layer, part(values, "state."), official["operator"])
    nchw = (0, 3, 1, 2) if official["layout"] == "NHWC" else (0, 1, 2, 3)
    tolerance = dict.fromkeys(("rtol", "atol"), 1e-5 if official["operator"] == "dcnv3" else 1e-10)
    x = values["input"].permute(nchw).requires_grad_()
    y = layer(x)
    y.backward(values["grad_output"].permute(nchw))
    torch.testing.assert_close(y, values["output"].permute(nchw), **tolerance)
    torch.testing.assert_close(x.grad, values["grad_input"].permute(nchw), **tolerance)
    gradients = as_ours(layer, official, part(values, "grad."))
    assert gradients.keys() == dict(layer.named_parameters()).keys()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].view_as(parameter), **tolerance)
