"""A joint distribution that can be enumerated: p(y) over all texts of N tokens, z given y ~ N(mu_y, s^2 I), and its Bayes ceilings.

    p(y | z) = p(y) N(z; mu_y, s^2) / sum over y' of the same,      E[z | y] = mu_y

exact match   of L2T draws        E_z sum_y p(y | z)^2               of its likeliest text   E_z max_y p(y | z)
error         of T2L means        s^2 a dimension                    of the latent cycle     E |z - mu_y'|^2 / D,  y' ~ p(y | z)
text cycle    through the mean    E_y p(y | mu_y), -log of the same  through a sample        H(Y | Z)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lgdlm.batch import Batch
from lgdlm.config import TransformerModel
from lgdlm.data.loader import StepData
from lgdlm.models.build import build_model
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.objectives.objective import Objective
from lgdlm.objectives.schedule import Constant
from lgdlm.sampling import sample_text_from_latent
from lgdlm.sampling.t2l import predict_latent
from lgdlm.training.ema import Ema
from lgdlm.training.guard import Guard
from lgdlm.training.optimizer import Optimizers, learning_rate_scale
from lgdlm.training.step import TrainStep


@dataclass(frozen=True)
class JointToy:
    """texts int64 [S, N] with S = V^N; p float64 [S]; means float64 [S, D]; deviation s."""

    texts: Tensor
    p: Tensor
    means: Tensor
    deviation: float

    @staticmethod
    def random(vocab: int, length: int, dim: int, deviation: float, seed: int = 0) -> JointToy:
        g = torch.Generator().manual_seed(seed)
        texts = torch.tensor(list(itertools.product(range(vocab), repeat=length)))
        p = torch.rand(len(texts), generator=g, dtype=torch.float64) + 0.1
        return JointToy(texts, p / p.sum(), torch.randn(len(texts), dim, generator=g, dtype=torch.float64), deviation)

    @property
    def dim(self) -> int:
        return self.means.shape[1]

    def draw(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Indices of texts [count] and latents float64 [count, D]."""
        g = torch.Generator().manual_seed(seed)
        y = torch.multinomial(self.p, count, replacement=True, generator=g)
        return y, self.means[y] + self.deviation * torch.randn(count, self.dim, generator=g, dtype=torch.float64)

    def batch(self, count: int, seed: int) -> Batch:
        y, z = self.draw(count, seed)
        return Batch(self.texts[y], torch.ones_like(self.texts[y], dtype=torch.bool), z[:, None].float(), torch.arange(count))

    def index(self, tokens: Tensor) -> Tensor:
        """Texts [B, N] to their places in the table."""
        vocab = int(self.texts.max()) + 1
        return (tokens * vocab ** torch.arange(tokens.shape[1] - 1, -1, -1)).sum(dim=1)

    def given(self, z: Tensor) -> Tensor:
        """p(y | z), float64 [B, S]."""
        distance = (z.double()[:, None] - self.means).square().sum(dim=2)
        return (self.p.log() - distance / (2 * self.deviation**2)).softmax(dim=1)

    def ceilings(self, count: int = 20_000) -> dict[str, float]:
        """What a perfect model reaches, over many draws; errors are raw, nats are of a text."""
        y, z = self.draw(count, seed=99)
        p = self.given(z)
        at_means = self.given(self.means)
        right = at_means.diagonal()
        distances = (z[:, None] - self.means).square().mean(dim=2)
        return {
            "l2t_exact": float((p**2).sum(dim=1).mean()),
            "t2l_error": self.deviation**2,
            "cycle_text_exact": float((self.p * right).sum()),
            "cycle_latent_error": float((p * distances).sum(dim=1).mean()),
            "nats_given_z": float(-p[torch.arange(count), y].log().mean()),
            "nats_given_mean": float(-(self.p * right.log()).sum()),
        }


def toy_model(toy: JointToy, hidden_size: int, n_blocks: int, seed: int = 0) -> TextLatentDiffusion:
    length, vocab = toy.texts.shape[1], int(toy.texts.max()) + 1
    mean = (toy.p[:, None] * toy.means).sum(dim=0)
    variance = (toy.p[:, None] * (toy.means - mean) ** 2).sum(dim=0) + toy.deviation**2
    config = TransformerModel(
        hidden_size=hidden_size, n_blocks=n_blocks, n_heads=2, latent_dim=toy.dim, max_seq_len=length, time_conditioning="film"
    )
    return build_model(config, vocab_size=vocab, eos_id=0, latent_mean=mean.float(), latent_std=variance.sqrt().float(), seed=seed)


def train(toy: JointToy, model: TextLatentDiffusion, objective: Objective, steps: int, rows: int = 256, lr: float = 4e-3) -> Ema:
    """Steps on fresh draws, with the trainer's own step; the averaged weights are in what is returned."""
    ema = Ema(model, 0.99)
    step = TrainStep(model, {"it": objective}, Constant("it"), Optimizers(model, lr=lr), ema, Guard(0), seed=1)
    for k in range(1, steps + 1):
        data = toy.batch(rows, seed=k)
        scale = learning_rate_scale(k, k / steps, 20, "cosine", 0.02)
        assert step(StepData([data], data.tokens, rows, (), 1), k, scale)["loss"] is not None
    return ema


@torch.no_grad()
def reached(toy: JointToy, model: TextLatentDiffusion, count: int = 4000, steps: int = 16) -> dict[str, float]:
    """The same quantities of a model, by its samplers; the latents of both cycles are one-step readings."""
    model.eval()
    y, z = toy.draw(count, seed=123)
    texts = toy.texts[y]

    def write(latent: Tensor, seed: int) -> Tensor:
        return sample_text_from_latent(model, latent.float(), num_steps=steps, seed=seed).tokens

    read: Callable[[Tensor], Tensor] = lambda tokens: predict_latent(model, tokens)[:, 0].double()  # noqa: E731
    written, means = write(z, 1), read(texts)
    return {
        "l2t_exact": float((written == texts).all(dim=1).double().mean()),
        "t2l_error": float((means - z).square().mean()),
        "cycle_text_exact": float((write(means, 2) == texts).all(dim=1).double().mean()),
        "cycle_latent_error": float((read(written) - z).square().mean()),
    }
