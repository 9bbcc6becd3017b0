"""Official weights into our modules; our networks into files, to the Hugging Face Hub (``interop.hub``) and timm (``interop.timm``)."""

from unified_extractor.interop.official import load_official, official_layer
from unified_extractor.interop.saved import load, save
from unified_extractor.interop.weights import load_weights, read_state_dict
from unified_extractor.ops.onnx_nodes import deform_conv_nodes

__all__ = ["deform_conv_nodes", "load", "load_official", "load_weights", "official_layer", "read_state_dict", "save"]
