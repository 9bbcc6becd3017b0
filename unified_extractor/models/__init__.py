"""Networks, one file a family."""

from unified_extractor.models.extractor_net import ExtractorNet, extractor_net

__all__ = ["ExtractorNet", "extractor_net"]
