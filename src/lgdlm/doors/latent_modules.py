"""Posterior and prior of Stage II under their old signatures.

TextLatentEncoder(hidden_size, latent_dim, dropout=0.0)(h) -> mu, logvar          h [B, N, H] or pooled [B, H]
LatentPrior(latent_dim, prior_type)(batch_size, device)    -> mu, logvar
kl_divergence(mu_q, logvar_q, mu_p, logvar_p)              sum over dimensions, mean over the batch
"""

from __future__ import annotations

from lgdlm.models import posterior, prior
from lgdlm.models.posterior import kl_divergence, reparameterize

__all__ = ["LatentPrior", "TextLatentEncoder", "kl_divergence", "reparameterize"]


class TextLatentEncoder(posterior.TextLatentEncoder):
    """The core's, whose latent is one vector of `latent_dim` numbers; `kind` is mlp, rwkv_pool or transformer."""

    def __init__(self, hidden_size: int, latent_dim: int, dropout: float = 0.0, kind: str = "mlp"):
        super().__init__(hidden_size, latent_dim, dropout, kind)


class LatentPrior(prior.LatentPrior):
    """The core's Gaussian prior over one vector of `latent_dim` numbers; `prior_type` is fixed_gaussian or learned_gaussian."""

    def __init__(self, latent_dim: int, prior_type: str = "fixed_gaussian"):
        super().__init__(latent_dim, prior_type)
