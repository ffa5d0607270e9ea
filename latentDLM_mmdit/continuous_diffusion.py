"""The latent's process under its old signature."""

from lgdlm.doors.latent_noise import ContinuousDiffusion

__all__ = ["ContinuousDiffusion"]
