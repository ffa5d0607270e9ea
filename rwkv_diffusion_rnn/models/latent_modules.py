"""Posterior and prior of Stage II."""

from lgdlm.doors.latent_modules import LatentPrior, TextLatentEncoder, kl_divergence, reparameterize

__all__ = ["LatentPrior", "TextLatentEncoder", "kl_divergence", "reparameterize"]
