"""One step's loss under its old signature."""

from lgdlm.doors.step_loss import MultimodalDiffusionTrainer_new

__all__ = ["MultimodalDiffusionTrainer_new"]
