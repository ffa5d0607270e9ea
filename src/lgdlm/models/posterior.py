"""What a text says about its own latent: q(z | y), read from the text states of a clean pass.

    q(z | y) = N(mu, diag exp(logvar)),   mu, logvar = heads(pool(h)),   z = mu + exp(logvar / 2) e

    mlp          pool = mean of h
    rwkv_pool    pool = mean of what an RWKV-7 block says while it reads h
    transformer  pool = a trained query that attends to h              heads = two layers with GELU, then one matrix each

h has seen the whole text and nothing of a latent, so q is a function of the text alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgdlm.models.attention import FeedForward, Projections, attend
from lgdlm.models.latent_head import masked_mean
from lgdlm.models.rwkv7 import RWKV7
from lgdlm.models.walk import ordered, padding_last
from lgdlm.rng import Rng

START_LOG_VARIANCE = -2.0  # q starts narrower than the prior: from a latent that is mostly noise a decoder learns to read none


@dataclass(frozen=True)
class Posterior:
    """A diagonal Gaussian for each text: `mean` and `log_variance` float32 [B, L, D], in standardised units."""

    mean: Tensor
    log_variance: Tensor

    def draw(self, rng: Rng) -> Tensor:
        """z ~ q by reparameterisation, [B, L, D]."""
        noise = rng.normal("posterior draw", *self.mean.shape[1:], dtype=self.mean.dtype)
        return reparameterize(self.mean, self.log_variance, noise)


def reparameterize(mu: Tensor, logvar: Tensor, noise: Tensor | None = None) -> Tensor:
    """mu + exp(logvar / 2) e, differentiable in both; e is `noise`, or fresh from torch's own generator."""
    return mu + (0.5 * logvar).exp() * (torch.randn_like(mu) if noise is None else noise)


def kl_by_dimension(mu_q: Tensor, logvar_q: Tensor, mu_p: Tensor, logvar_p: Tensor) -> Tensor:
    """KL(N(mu_q, exp logvar_q) || N(mu_p, exp logvar_p)) of each entry, in nats; never negative."""
    ratio = logvar_q - logvar_p
    return 0.5 * (torch.expm1(ratio) - ratio + (mu_q - mu_p).square() * (-logvar_p).exp())


def kl_divergence(mu_q: Tensor, logvar_q: Tensor, mu_p: Tensor, logvar_p: Tensor) -> Tensor:
    """The same between rows, [B, ...] to a scalar: summed over dimensions, mean over the batch."""
    return kl_by_dimension(mu_q, logvar_q, mu_p, logvar_p).flatten(1).sum(dim=1).mean()


class Pool(nn.Module, ABC):
    """Text states [B, N, H] and the bool mask [B, N] of the real ones to one vector a text, [B, H]."""

    @abstractmethod
    def __init__(self, hidden_size: int, dropout: float = 0.0):
        super().__init__()

    @abstractmethod
    def forward(self, states: Tensor, mask: Tensor) -> Tensor: ...


class MeanPool(Pool):
    """The mean over real positions; no parameters."""

    def __init__(self, hidden_size: int, dropout: float = 0.0):
        super().__init__(hidden_size)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        return masked_mean(states, mask)


class RecurrentPool(Pool):
    """One RWKV-7 block reads the text from left to right; the mean of what it says at the real tokens."""

    def __init__(self, hidden_size: int, dropout: float = 0.0):
        super().__init__(hidden_size)
        self.reader = RWKV7(hidden_size, 1, head_size=math.gcd(hidden_size, 64), zero_init=False, dropout=dropout)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        order, real = padding_last(mask)
        x, _ = self.reader(ordered(states, order), mask=real, keep_state=False)
        return masked_mean(x, mask if real is None else real)


class AttentionPool(Pool):
    """One pre-norm transformer block over a trained query and the text; the query's state is the answer."""

    def __init__(self, hidden_size: int, dropout: float = 0.0):
        super().__init__(hidden_size)
        self.query = nn.Parameter(torch.randn(hidden_size) * 0.02)
        self.attention = Projections(hidden_size, hidden_size // math.gcd(hidden_size, 64), qk_rmsnorm=True)
        self.ffn = FeedForward(hidden_size, dropout=dropout)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        x = torch.cat([self.query.expand(len(states), 1, -1), states], dim=1)
        seen = None if bool(mask.all()) else F.pad(mask, (1, 0), value=True)
        q, k, v = self.attention.heads(F.layer_norm(x, x.shape[-1:]))
        answer = x[:, :1] + self.attention.merge(attend(q[:, :, :1], k, v, seen))
        return (answer + self.ffn(F.layer_norm(answer, answer.shape[-1:])))[:, 0]


POOLS: dict[str, type[Pool]] = {"mlp": MeanPool, "rwkv_pool": RecurrentPool, "transformer": AttentionPool}


class TextLatentEncoder(nn.Module):
    """Text states to mu and logvar. `kind` is a name of `POOLS`, `latent_size` the numbers of a latent, L * D.

    Raises ValueError for an unknown kind.
    """

    def __init__(self, hidden_size: int, latent_size: int, dropout: float = 0.0, kind: str = "mlp"):
        super().__init__()
        if kind not in POOLS:
            raise ValueError(f"latent_encoder_type {kind!r}: expected one of {', '.join(POOLS)}")
        self.pool = POOLS[kind](hidden_size, dropout)
        self.norm = nn.LayerNorm(hidden_size)
        enter, turn = nn.Linear(hidden_size, hidden_size), nn.Linear(hidden_size, hidden_size)
        self.trunk = nn.Sequential(enter, nn.GELU(), nn.Dropout(dropout), turn, nn.GELU())
        self.mean = nn.Linear(hidden_size, latent_size)
        self.log_variance = nn.Linear(hidden_size, latent_size)
        for layer in (enter, turn, self.mean):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # means start with a variance near 1, the prior's
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.log_variance.weight)
        nn.init.constant_(self.log_variance.bias, START_LOG_VARIANCE)

    def forward(self, states: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """States [B, N, H] with the bool mask [B, N] of the real ones (None: all), or already pooled [B, H]: mu, logvar [B, latent_size].

        Computed in float32 under autocast too: the divergence needs the digits.
        """
        with torch.autocast(states.device.type, enabled=False):
            x = states.to(self.norm.weight.dtype)
            if x.dim() == 3:
                x = self.pool(x, torch.ones_like(x[..., 0], dtype=torch.bool) if mask is None else mask)
            x = self.trunk(self.norm(x))
            return self.mean(x), self.log_variance(x)
