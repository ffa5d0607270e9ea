"""Embedding diffusion: Gaussian noise on the embeddings of tokens.

    x_0 = e(y),   e(v) = sqrt(E) E[v] / |E[v]|               x_t = alpha(t) x_0 + sigma(t) n,   n ~ N(0, I)
    loss = w(t) |x0_hat - sg(x_0)|^2 / E                      the cross entropy beside it is the objective's
    x_s ~ the Gaussian step from x0_hat                       y = the token drawn from logits x0_hat . e(v) + b, or the nearest e(v)

Every token lies on the sphere of radius sqrt(E), where a coordinate has the size of the noise. So no embedding can shrink to make its
error small, and nearest means largest inner product. The other way out, all tokens in one direction, is closed by `sg`: the target
is held still, and what gradient reaches the table, through x_t and through the logits, asks for tokens that can be told apart.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lgdlm.diffusion.gaussian import GaussianDiffusion
from lgdlm.diffusion.process import Process, per_row, widen
from lgdlm.diffusion.schedule import LatentSchedule
from lgdlm.rng import Rng

WEIGHTINGS = ("uniform", "epsilon")
MOST_SNR = 5.0  # of `epsilon`: beyond, a weight is that of the x_0 error again (min-SNR, Hang et al. 2023)
CHUNK = 1 << 22  # inner products held at once


def on_sphere(rows: Tensor) -> Tensor:
    """[..., E] to the same directions at length sqrt(E)."""
    return F.normalize(rows, dim=-1) * rows.shape[-1] ** 0.5


class EmbeddingDiffusion(Process):
    """`table()` gives the raw token rows E [V, E]; `mask_id` is the id that stands for an unknown token in a sampler's canvas.

    `weighting` of a squared error: `uniform`, or `epsilon`: that of the noise it implies, alpha^2 / sigma^2 times as much, at most
    MOST_SNR times. `self_conditioning` is the share of training steps in which the network is shown its own first estimate; 0: it
    never sees one, and a sampler shows none. Raises ValueError for a weighting that it does not have.
    """

    def __init__(
        self,
        mask_id: int,
        table: Callable[[], Tensor],
        schedule: LatentSchedule | None = None,
        weighting: str = "uniform",
        self_conditioning: float = 0.0,
    ):
        if weighting not in WEIGHTINGS:
            raise ValueError(f"text_weighting {weighting!r}: expected one of {', '.join(WEIGHTINGS)} for text_process=embedding")
        self.mask_id, self.table, self.weighting, self.self_conditioning = mask_id, table, weighting, self_conditioning
        self.gaussian = GaussianDiffusion(schedule, predicts="x0")

    def rows(self) -> Tensor:
        """e(v) of every token, [V, E]."""
        return on_sphere(self.table())

    def embed(self, tokens: Tensor) -> Tensor:
        """e(y) of int64 [...], [..., E]; an unknown token lies at the centre, 0."""
        unknown = tokens == self.mask_id
        return on_sphere(self.table()[tokens.masked_fill(unknown, 0)]).masked_fill(unknown[..., None], 0.0)

    def noise(self, x0: Tensor, t: Tensor, rng: Rng, mask: Tensor | None = None) -> Tensor:
        """int64 [B, N] to float [B, N, E]; positions outside `mask` (padding) are left clean."""
        clean = self.embed(x0)
        noised = self.gaussian.mix(clean, rng.normal("text noise", *clean.shape[1:], dtype=clean.dtype), t)
        return noised if mask is None else torch.where(mask[..., None], noised, clean)

    def prior(self, shape: tuple[int, ...], rng: Rng) -> Tensor:
        """Pure noise for texts [B, N], float [B, N, E]."""
        table = self.table()
        return rng.normal("text prior", shape[1], table.shape[1], dtype=table.dtype)

    def masked(self, x_t: Tensor, mask: Tensor | None = None) -> Tensor:
        """bool [B, N]: the positions whose token is in question, which are all."""
        return torch.ones(x_t.shape[:2], dtype=torch.bool, device=x_t.device) if mask is None else mask

    def start_time(self, unknown: Tensor, seen: Tensor) -> Tensor:
        """Clock [B] of a text of which `unknown` bool [B, N] is to be drawn and the rest of `seen` is given: 1 where anything is.

        Given tokens carry the clock's noise like the others, so the clock has to begin where an unknown token is nothing but noise.
        """
        return unknown.any(dim=1).double()

    def weight(self, t: Tensor) -> Tensor:
        """float [B]: the weight of a row's squared errors."""
        t = widen(t)
        return self.gaussian.schedule.log_snr(t).exp().clamp_max(MOST_SNR) if self.weighting == "epsilon" else torch.ones_like(t)

    def squared_error(self, x0_hat: Tensor, tokens: Tensor) -> Tensor:
        """|x0_hat - e(y)|^2 / E of [M, E] against int64 [M], at least float32 [M]; the table has no gradient from it."""
        return (widen(x0_hat) - widen(self.embed(tokens).detach())).square().mean(dim=-1)

    def loss(self, prediction: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:
        """Weighted squared errors of each row, summed over its positions, float32 [B]; `prediction` is x0_hat [M, E] at those in `mask`."""
        asked = self.masked(x_t, mask)
        rows = asked.nonzero()[:, 0]
        weighted = self.squared_error(prediction, x0[asked]) * self.weight(t)[rows]
        return torch.zeros(len(t), dtype=weighted.dtype, device=weighted.device).index_add(0, rows, weighted)

    def step(self, x_t: Tensor, prediction: Tensor, t: Tensor, s: Tensor, rng: Rng, eta: float = 0.0) -> Tensor:
        """x_s [B, N, E] from the estimate x0_hat [B, N, E]: DDIM for `eta` 0, ancestral for 1."""
        return self.gaussian.step_from_x0(x_t, prediction, t, s, rng, eta)

    @torch.no_grad()
    def nearest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The token nearest to each x [..., E], int64 [...], and how far it is, sqrt(|x - e(v)|^2 / E) float32 [...]: the drift.

        0 is on a token, 1 the centre, sqrt(2) at a right angle to the nearest.
        """
        rows = widen(self.rows())
        flat = x.reshape(-1, x.shape[-1]).to(rows.dtype)
        tokens = torch.cat([(part @ rows.T).argmax(dim=1) for part in flat.split(max(1, CHUNK // len(rows)))])
        distance = (flat - rows[tokens]).square().mean(dim=1).sqrt()
        return tokens.view(x.shape[:-1]), distance.view(x.shape[:-1])

    @torch.no_grad()
    def crowding(self) -> float:
        """Mean cosine between two tokens: 0 for directions spread evenly, 1 where all embeddings have become one."""
        rows = F.normalize(widen(self.table()), dim=1)
        count = len(rows)
        return float((rows.sum(dim=0).square().sum() - count) / (count * (count - 1)))

    def at_clock(self, tokens: Tensor, open_: Tensor, t: Tensor, rng: Rng) -> Tensor:
        """The state at clock t of a canvas int64 [B, N]: pure noise where `open_` bool [B, N], elsewhere its tokens, noised."""
        open_ = open_ & (per_row(t, open_) > 0)
        return torch.where(open_[..., None], self.prior(tuple(tokens.shape), rng), self.noise(tokens, t, rng))
