"""What a linear model reads from the visible tokens, and the answer it implies: the network only has to correct it.

    z_0 | visible tokens ~ N(b, s^2),   b = sum over visible W[y_i] / sqrt(n) + share * c,   s^2 = 1 - share (1 - r)

with n the text's length, `share` its visible part and r the residual variance of a ridge regression from bags of tokens. The skip is the
exact posterior mean of that model given z_t (`GaussianDiffusion.answer_of_gaussian`), so at initialisation T2L is ridge regression
at every t, and with nothing visible it is silent.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lgdlm.models.denoiser import NoisyPair


class LinearReading(nn.Module):
    """`table` W [V, L D] and `offset` c [L D], zero until they are fitted, `residual` r [L D], 1 until then.

    None of them is trained: a regression fitted on every text is not improved by noisy gradients on some of them, and the
    network corrects a reading that stands still.
    """

    def __init__(self, vocab_size: int, latent_len: int, latent_dim: int):
        super().__init__()
        self.vocab_size, self.shape = vocab_size, (latent_len, latent_dim)
        self.table: Tensor
        self.offset: Tensor
        self.residual: Tensor
        self.register_buffer("table", torch.zeros(vocab_size, latent_len * latent_dim))
        self.register_buffer("offset", torch.zeros(latent_len * latent_dim))
        self.register_buffer("residual", torch.ones(latent_len * latent_dim))

    @torch.no_grad()
    def fit(self, table: Tensor, offset: Tensor, residual: Tensor) -> None:
        """Take a regression's weights [V, L D], intercept [L D] and residual variance [L D] in (0, 1]."""
        assert bool((residual > 0).all()), "a residual variance of 0 would leave nothing to denoise"
        self.table.copy_(table)
        self.offset.copy_(offset)
        self.residual.copy_(residual.clamp_max(1.0))  # a regression worse than the mean reads nothing

    def forward(self, pair: NoisyPair) -> tuple[Tensor, Tensor]:
        """Mean b and variance s^2 of the latent, both [B, L, D]; masked and padding positions do not enter."""
        visible = pair.attention_mask & (pair.text != self.vocab_size)
        read = torch.where(visible[..., None], self.table[pair.text.masked_fill(~visible, 0)], 0.0).sum(dim=1)
        length = pair.attention_mask.sum(dim=1)[:, None]
        share = visible.sum(dim=1, keepdim=True) / length
        mean, variance = read / length.sqrt() + share * self.offset, 1 - share * (1 - self.residual)
        return mean.unflatten(1, self.shape), variance.unflatten(1, self.shape)
