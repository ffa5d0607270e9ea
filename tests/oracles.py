"""What the tests compare with: written from the papers, independent of the package.

TextTable        p(x) over all V^N sequences, its exact posteriors, its NELBO by Beta integrals, its reverse chain
gaussian_*       a Gaussian target: optimal denoiser, loss and negative log density in closed form
splitmix64       the published generator in Python integers
star_discrepancy how far a point set is from uniform
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# ---------------------------------------------------------------- text


@dataclass(frozen=True)
class TextTable:
    """A distribution over all sequences of `length` tokens below `vocab`; the mask is id `vocab`.

    sequences int64 [S, N] with S = V^N, probability float64 [S].
    """

    vocab: int
    length: int
    sequences: Tensor
    probability: Tensor

    @staticmethod
    def random(vocab: int, length: int, seed: int, concentration: float = 0.7) -> TextTable:
        sequences = torch.tensor(list(itertools.product(range(vocab), repeat=length)))
        weights = np.random.default_rng(seed).dirichlet(np.full(len(sequences), concentration))
        return TextTable(vocab, length, sequences, torch.from_numpy(weights))

    @property
    def log_p(self) -> Tensor:
        return self.probability.log()

    def index(self, tokens: Tensor) -> Tensor:
        """[B, N] clean sequences to their row in the table."""
        place = self.vocab ** torch.arange(self.length - 1, -1, -1)
        return (tokens * place).sum(dim=1)

    def given(self, x_t: Tensor) -> Tensor:
        """p(x_0 = s | x_t), float64 [B, S]: the sequences that agree with the visible tokens, renormalised."""
        seen = x_t[:, None] != self.vocab
        agrees = ((x_t[:, None] == self.sequences) | ~seen).all(dim=2)
        weights = agrees * self.probability
        return weights / weights.sum(dim=1, keepdim=True)

    def posterior(self, x_t: Tensor) -> Tensor:
        """p(x_0,i = v | x_t), float64 [B, N, V]: what a perfect denoiser answers."""
        one_hot = torch.nn.functional.one_hot(self.sequences, self.vocab).double()
        return torch.einsum("bs,snv->bnv", self.given(x_t), one_hot)

    def patterns(self) -> Tensor:
        """All non-empty mask patterns, bool [2^N - 1, N]."""
        return torch.tensor(list(itertools.product((False, True), repeat=self.length)))[1:]

    def masked_nats(self, row: int) -> Tensor:
        """Per pattern: sum over masked i of -log p(x_i | visible), by sums over the table alone, float64 [2^N - 1]."""
        x0, nats = self.sequences[row], []
        for pattern in self.patterns():
            agrees = (self.sequences[:, ~pattern] == x0[~pattern]).all(dim=1)
            seen = self.probability[agrees].sum()
            total = 0.0
            for i in pattern.nonzero()[:, 0]:
                total -= float((self.probability[agrees & (self.sequences[:, i] == x0[i])].sum() / seen).log())
            nats.append(total)
        return torch.tensor(nats, dtype=torch.float64)

    def nelbo(self, row: int) -> float:
        """The continuous-time bound at eps = 0: int t^(k-1) (1-t)^(N-k) dt = B(k, N - k + 1) for a pattern with k masks."""
        total = 0.0
        for pattern, nats in zip(self.patterns(), self.masked_nats(row), strict=True):
            k = int(pattern.sum())
            total += math.exp(math.lgamma(k) + math.lgamma(self.length - k + 1) - math.lgamma(self.length + 1)) * float(nats)
        return total

    def chain(self, shares: list[float]) -> Tensor:
        """The distribution of x_0 after a reverse chain that reveals each masked token with these shares in turn, each drawn from its own
        posterior: float64 [S], by the full transition matrix over (V + 1)^N states."""
        states = torch.tensor(list(itertools.product(range(self.vocab + 1), repeat=self.length)))
        possible = self.given(states)
        assert possible.isfinite().all(), "every sequence has positive probability"
        answer = self.posterior(states)
        at = torch.zeros(len(states), dtype=torch.float64)
        at[-1] = 1.0  # all masks
        for share in shares:
            move = torch.ones(len(states), len(states), dtype=torch.float64)
            for i in range(self.length):
                here, there = states[:, None, i], states[None, :, i]
                masked = here == self.vocab
                drawn = answer[:, i].gather(1, states[:, i].clamp_max(self.vocab - 1).expand(len(states), -1))
                hidden = torch.where(there == self.vocab, 1 - share, share * drawn)
                move *= torch.where(masked, hidden, (here == there).double())
            at = at @ move
        clean = (states != self.vocab).all(dim=1)
        assert float(at[~clean].sum()) < 1e-12, "nothing stays masked"
        return at[clean]


def gauss_legendre(nodes: int, low: float = 0.0, high: float = 1.0) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [low, high], float64; exact for polynomials of degree 2 nodes - 1."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    return torch.from_numpy(low + (high - low) * (x + 1) / 2), torch.from_numpy(w * (high - low) / 2)


# ---------------------------------------------------------------- latents


def cosine_abar(t: float) -> float:
    """Nichol and Dhariwal 2021, equation 17."""

    def f(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    return f(t) / f(0.0)


def sigmoid_abar(t: float, start: float = -3.0, end: float = 3.0) -> float:
    """Jabri et al. 2022, appendix: the rescaled logistic."""

    def g(u: float) -> float:
        return 1 / (1 + math.exp(-u))

    return (g(end) - g(start + (end - start) * t)) / (g(end) - g(start))


def linear_abar(steps: int, index: int, beta_min: float = 1e-4, beta_max: float = 0.02) -> float:
    """Ho et al. 2020: the product of 1 - beta over the first `index` of `steps` steps, betas evenly spaced."""
    betas = np.linspace(beta_min, beta_max, steps)[:index]
    return float(np.prod(1 - betas))


def gaussian_denoiser(z_t: Tensor, alpha: Tensor, sigma: Tensor, mean: float, std: float) -> Tensor:
    """E[z_0 | z_t] for z_0 ~ N(mean, std^2)."""
    gain = std**2 * alpha / (alpha**2 * std**2 + sigma**2)
    return mean + gain * (z_t - alpha * mean)


def gaussian_error(snr: Tensor, z0: float, mean: float, std: float) -> Tensor:
    """E_e |z_0 - E[z_0 | z_t]|^2 for one z_0: ((z_0 - mean)^2 + std^4 SNR) / (1 + std^2 SNR)^2."""
    return ((z0 - mean) ** 2 + std**4 * snr) / (1 + std**2 * snr) ** 2


def gaussian_diffusion_loss(snr_early: float, snr_late: float, std: float) -> float:
    """The continuous-time loss between two times, averaged over the data: log((1 + SNR_0 std^2) / (1 + SNR_1 std^2)) / 2."""
    return 0.5 * math.log((1 + snr_early * std**2) / (1 + snr_late * std**2))


def normal_kl(mean_q: float, var_q: float, mean_p: float, var_p: float) -> float:
    return 0.5 * (math.log(var_p / var_q) + (var_q + (mean_q - mean_p) ** 2) / var_p - 1)


def normal_nats(x: float, mean: float, var: float) -> float:
    """-log N(x; mean, var)."""
    return 0.5 * (math.log(2 * math.pi * var) + (x - mean) ** 2 / var)


def normal_draws(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class Silence:
    """Stands for a source of randomness whose normal draws are all `value`: it separates a step's mean from its noise."""

    def __init__(self, value: float = 0.0):
        self.value = value

    def normal(self, purpose: str, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.full((1, *shape), self.value, dtype=dtype)


# ---------------------------------------------------------------- numbers

WORD = (1 << 64) - 1


def splitmix64(x: int) -> int:
    """The finaliser of Steele, Lea and Flood 2014, in Python integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    return x ^ (x >> 31)


def star_discrepancy(points: np.ndarray) -> float:
    """sup over boxes [0, a) of |share of points inside - volume|, for points [n] or [n, 2]; the corners run over the coordinates."""
    if points.ndim == 1:
        u, n = np.sort(points), len(points)
        i = np.arange(1, n + 1)
        return float(max((i / n - u).max(), (u - (i - 1) / n).max()))
    x, y = (np.append(np.sort(points[:, axis]), 1.0) for axis in (0, 1))
    volume = x[:, None] * y[None, :]
    closed = (points[:, 0] <= x[:, None]).astype(float) @ (points[:, 1] <= y[:, None]).T / len(points)
    opened = (points[:, 0] < x[:, None]).astype(float) @ (points[:, 1] < y[:, None]).T / len(points)
    return float(max((closed - volume).max(), (volume - opened).max()))
