"""A denoiser that knows a law over texts and the rows its tokens have: every answer is the posterior's, by summing over the texts.

    p(s | x_t) ~ p(s) prod_i N(x_t,i; alpha e(s_i), sigma^2)     x0_hat_i = sum_s p(s | x_t) e(s_i)     logits_i = log p(s_i = v | x_t)

Written from the definitions; the schedule's alpha and sigma are the only numbers taken from the code under test.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lgdlm.diffusion.embedding import EmbeddingDiffusion
from lgdlm.diffusion.gaussian import GaussianDiffusion
from lgdlm.models.denoiser import Denoiser, NoisyPair, Prediction
from lgdlm.models.joint import TextLatentDiffusion


class ExactRows(Denoiser):
    """`sequences` int64 [S, N] with log probabilities [S]; `rows` [V, E] on the sphere. `by_latent`: text s belongs to the latent s."""

    def __init__(self, sequences: Tensor, log_p: Tensor, rows: Tensor, by_latent: bool = False):
        super().__init__()
        self.vocab_size, self.latent_len, self.latent_dim, self.hidden_size = len(rows), 1, 1, 4
        self.sequences, self.log_p, self.rows, self.by_latent = sequences, log_p.double(), rows.double(), by_latent
        self.schedule = GaussianDiffusion().schedule
        self.questions: list[NoisyPair] = []

    def posterior(self, pair: NoisyPair) -> Tensor:
        """[B, S]"""
        t = pair.t_text.double()[:, None, None, None]
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        clean = self.rows[self.sequences[:, : pair.text.shape[1]]]
        apart = (pair.text.double()[:, None] - alpha * clean[None]).square().sum(dim=3)
        log_w = self.log_p - (apart * pair.attention_mask[:, None] / (2 * sigma[..., 0] ** 2 + 1e-12)).sum(dim=2)
        if self.by_latent:
            other = (pair.latent.double()[:, :, 0] - torch.arange(len(self.sequences))).abs() > 0.5
            log_w = torch.where(other & (pair.t_latent == 0)[:, None], -torch.inf, log_w)
        return log_w.softmax(dim=1)

    def forward(self, pair: NoisyPair) -> Prediction:
        assert pair.text.is_floating_point(), "a text is shown as rows"
        self.questions.append(pair)
        weights = self.posterior(pair)
        texts = self.sequences[:, : pair.text.shape[1]]
        law = torch.einsum("bs,snv->bnv", weights, nn.functional.one_hot(texts, self.vocab_size).double())
        logits = law.clamp_min(1e-30).log()
        asked = logits if pair.logits_at is None else logits[pair.logits_at]
        latent = self.process_latent(pair)
        return Prediction(asked, latent, torch.zeros(*pair.text.shape[:2], 4), torch.einsum("bnv,ve->bne", law, self.rows))

    def process_latent(self, pair: NoisyPair) -> Tensor:
        """z_0 = 0 everywhere."""
        return GaussianDiffusion().from_x0(torch.zeros_like(pair.latent), pair.latent, pair.t_latent)


def embedded_model(denoiser: ExactRows, raw: Tensor, length: nn.Module | None = None) -> TextLatentDiffusion:
    """The joint model around it, with `raw` [V, E] as the table; latents are their own units."""
    process = EmbeddingDiffusion(denoiser.vocab_size, lambda: raw)
    return TextLatentDiffusion(denoiser, process, GaussianDiffusion(), length, torch.zeros(1), torch.ones(1), eos_id=0)
