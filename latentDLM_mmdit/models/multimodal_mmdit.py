"""MMDiT under its old signature."""

from lgdlm.doors.mmdit_network import MultimodalMMDiT

__all__ = ["MultimodalMMDiT"]
