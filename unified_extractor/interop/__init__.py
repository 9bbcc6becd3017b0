"""Official weights into our modules; our networks into files, to the Hugging Face Hub (``interop.hub``) and timm (``interop.timm``)."""

from typing import TYPE_CHECKING, NoReturn

from unified_extractor.interop.official import load_official, official_layer
from unified_extractor.interop.saved import load, save
from unified_extractor.interop.weights import load_weights, read_state_dict
from unified_extractor.names import no_attribute
from unified_extractor.ops.onnx_nodes import deform_conv_nodes

__all__ = ["deform_conv_nodes", "load", "load_official", "load_weights", "official_layer", "read_state_dict", "save"]


if not TYPE_CHECKING:  # a type checker shall go on to see that a name is unknown

    def __getattr__(name: str) -> NoReturn:
        """Raise ``AttributeError`` with the nearest name for one that there is not."""
        raise no_attribute(__name__, name, __all__)
