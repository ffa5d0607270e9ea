"""Denoisers for the tests of samplers: one that knows the answer, one that knows the distribution, one that is merely a function.

Written from the definitions, without the code under test: a masked position's law is a sum over sequences, a Gaussian's posterior mean is
its closed form.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from lgdlm.diffusion.gaussian import GaussianDiffusion
from lgdlm.diffusion.masked import MaskedDiffusion
from lgdlm.models.denoiser import Denoiser, NoisyPair, Prediction
from lgdlm.models.joint import TextLatentDiffusion


class Watched(Denoiser):
    """Counts its calls, the rows and the logits it was asked for."""

    def __init__(self, vocab_size: int, latent_len: int, latent_dim: int, process: GaussianDiffusion | None = None):
        super().__init__()
        self.vocab_size, self.latent_len, self.latent_dim, self.hidden_size = vocab_size, latent_len, latent_dim, 4
        self.process = process or GaussianDiffusion()
        self.questions: list[NoisyPair] = []

    @property
    def calls(self) -> int:
        return len(self.questions)

    @property
    def logits_computed(self) -> int:
        return sum(int(q.logits_at.sum()) for q in self.questions)

    def answer(self, pair: NoisyPair) -> tuple[Tensor, Tensor]:
        """Logits [B, N, V] and clean latents [B, L, D]."""
        raise NotImplementedError

    def forward(self, pair: NoisyPair) -> Prediction:
        assert torch.isfinite(pair.latent).all()
        assert (pair.text[pair.attention_mask] <= self.vocab_size).all()
        self.questions.append(pair)
        logits, x0 = self.answer(pair)
        latent = self.process.from_x0(x0.to(pair.latent.dtype), pair.latent, pair.t_latent)
        asked = logits if pair.logits_at is None else logits[pair.logits_at]
        return Prediction(asked, latent, torch.zeros(*pair.text.shape, self.hidden_size))


class Oracle(Watched):
    """Knows `tokens` [A, N] and standardised `latents` [A, L, D]: a row is recognised by its clean side, else it is the first."""

    def __init__(self, vocab_size: int, tokens: Tensor, latents: Tensor, process: GaussianDiffusion | None = None):
        super().__init__(vocab_size, *latents.shape[1:], process)
        self.tokens, self.latents = tokens, latents

    def recognise(self, pair: NoisyPair) -> Tensor:
        far = (pair.latent[:, None] - self.latents[None]).square().sum(dim=(2, 3))
        width = pair.text.shape[1]
        differ = ((pair.text[:, None] != self.tokens[None, :, :width]) & pair.attention_mask[:, None]).sum(dim=2)
        by_text = torch.where(pair.t_text == 0, differ.argmin(dim=1), 0)
        return torch.where(pair.t_latent == 0, far.argmin(dim=1), by_text)

    def answer(self, pair: NoisyPair) -> tuple[Tensor, Tensor]:
        which = self.recognise(pair)
        sure = 60.0 * nn.functional.one_hot(self.tokens[which, : pair.text.shape[1]], self.vocab_size)
        return sure, self.latents[which]


class Function(Watched):
    """A fixed smooth function of everything a denoiser is told, row by row: no knowledge, but every input matters."""

    def __init__(self, vocab_size: int = 11, latent_len: int = 1, latent_dim: int = 3, process: GaussianDiffusion | None = None):
        super().__init__(vocab_size, latent_len, latent_dim, process)
        make = torch.Generator().manual_seed(1)
        width, flat = 8, latent_len * latent_dim
        self.table = torch.randn(vocab_size + 1, width, generator=make, dtype=torch.float64)
        self.places = torch.randn(64, width, generator=make, dtype=torch.float64)
        self.enter = torch.randn(flat, width, generator=make, dtype=torch.float64) / 2
        self.leave = torch.randn(width, vocab_size, generator=make, dtype=torch.float64)
        self.back = torch.randn(width, flat, generator=make, dtype=torch.float64) / 3

    def answer(self, pair: NoisyPair) -> tuple[Tensor, Tensor]:
        seen = pair.attention_mask[..., None]
        text = torch.where(seen, self.table[pair.text] * (1 + self.places[: pair.text.shape[1]]), 0.0)
        pooled = text.sum(dim=1) / seen.sum(dim=1)
        clocks = (pair.t_text + 2 * pair.t_latent).double()[:, None]
        shared = torch.tanh(pooled + pair.latent.double().flatten(1) @ self.enter * (1.5 - pair.t_latent.double()[:, None]) + clocks)
        logits = torch.tanh(shared[:, None] + self.places[: pair.text.shape[1]]) @ self.leave
        return logits, (shared @ self.back).view(-1, self.latent_len, self.latent_dim)


class ExactText(Watched):
    """The posterior of a known distribution over all sequences: `p` [V] * N; the latent says nothing."""

    def __init__(self, p: Tensor):
        super().__init__(p.shape[0], 1, 1)
        self.sequences = torch.tensor(list(itertools.product(range(p.shape[0]), repeat=p.dim())))
        self.p = p.flatten()

    def answer(self, pair: NoisyPair) -> tuple[Tensor, Tensor]:
        fits = ((pair.text[:, None] == self.sequences[None]) | (pair.text[:, None] == self.vocab_size)).all(dim=2)
        weight = fits * self.p
        each = nn.functional.one_hot(self.sequences, self.vocab_size).double()
        law = torch.einsum("bs,snv->bnv", weight, each)
        return (law / law.sum(dim=2, keepdim=True)).log(), torch.zeros(pair.size, 1, 1)


class ExactGaussian(Watched):
    """E[z_0 | z_t] for z_0 ~ N(mean, deviation^2) in each dimension."""

    def __init__(self, mean: float, deviation: float, latent_dim: int, process: GaussianDiffusion):
        super().__init__(2, 1, latent_dim, process)
        self.mean, self.deviation = mean, deviation

    def answer(self, pair: NoisyPair) -> tuple[Tensor, Tensor]:
        alpha = self.process.schedule.alpha(pair.t_latent.double())[:, None, None]
        sigma = self.process.schedule.sigma(pair.t_latent.double())[:, None, None]
        gain = alpha * self.deviation**2 / (alpha**2 * self.deviation**2 + sigma**2)
        return torch.zeros(*pair.text.shape, 2), self.mean + gain * (pair.latent.double() - alpha * self.mean)


class Lengths(nn.Module):
    """A length head: p(n | z) over 1 .. max_length, given as a function of the standardised latent."""

    def __init__(self, max_length: int, latents: Tensor | None = None, lengths: Tensor | None = None):
        super().__init__()
        self.max_length, self.latents, self.lengths = max_length, latents, lengths

    def forward(self, latent: Tensor, t_latent: Tensor) -> Tensor:
        if self.latents is None:
            slope = latent.flatten(1).sum(dim=1, keepdim=True) * (1 - t_latent[:, None])
            return torch.arange(self.max_length) * slope / 4
        which = (latent[:, None] - self.latents[None]).square().sum(dim=(2, 3)).argmin(dim=1)
        which = torch.where(t_latent == 0, which, 0)
        return 60.0 * nn.functional.one_hot(self.lengths[which] - 1, self.max_length)


def model_around(
    denoiser: Watched, length: nn.Module | None = None, scale: float = 2.0, shift: float = 0.5, eos_id: int = 0
) -> TextLatentDiffusion:
    """The joint model with a denoiser under test; latents are standardised by (z - shift) / scale."""
    width = denoiser.latent_dim
    mean, std = torch.full((width,), shift), torch.full((width,), scale)
    return TextLatentDiffusion(denoiser, MaskedDiffusion(denoiser.vocab_size), denoiser.process, length, mean, std, eos_id)


def chi_square_bound(categories: int) -> float:
    """A value that a chi-square statistic of so many categories exceeds once in about a million (Wilson-Hilferty)."""
    k = categories - 1
    return k * (1 - 2 / (9 * k) + 4.8 * math.sqrt(2 / (9 * k))) ** 3
