"""Official weights into our modules; our networks into files, to the Hugging Face Hub (``interop.hub``) and timm (``interop.timm``)."""

from unified_extractor.interop.files import read_state_dict
from unified_extractor.interop.official import load_official
from unified_extractor.interop.saved import load, save

__all__ = ["load", "load_official", "read_state_dict", "save"]
