"""Networks, one file a family."""

from unified_extractor.models.extractor_net import ExtractorNet, extractor_net
from unified_extractor.models.rednet import RedNet, rednet26, rednet38, rednet50, rednet101, rednet152

__all__ = ["ExtractorNet", "RedNet", "extractor_net", "rednet26", "rednet38", "rednet50", "rednet101", "rednet152"]
