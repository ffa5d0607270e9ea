"""The text's process under its old signature."""

from lgdlm.doors.text_noise import MaskedDiffusion

__all__ = ["MaskedDiffusion"]
