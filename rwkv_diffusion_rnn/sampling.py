"""Samplers, for models of lgdlm and for the networks of this package."""

from lgdlm.doors.samplers import sample_joint, sample_latent_from_text, sample_text_from_latent

__all__ = ["sample_joint", "sample_latent_from_text", "sample_text_from_latent"]
