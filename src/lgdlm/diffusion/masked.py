"""Masked (absorbing-state) diffusion of tokens.

    q(x_t | x_0): each real token is replaced by the mask with probability 1 - alpha(t), independently
    NELBO = E_t [ -alpha'(t) / (1 - alpha(t)) * sum over masked i of -log p(x_i | x_t) ]       (weight 1/t)
    p(x_s | x_t): a masked token is revealed with probability (alpha(s) - alpha(t)) / (1 - alpha(t))

SUBS parameterisation (Sahoo et al. 2024): the network has no logit for the mask, and visible tokens are carried over.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lgdlm.diffusion.cross_entropy import token_nats
from lgdlm.diffusion.process import Process, per_row, widen
from lgdlm.diffusion.schedule import LogLinear
from lgdlm.rng import Rng

WEIGHTINGS = ("elbo", "uniform")


class MaskedDiffusion(Process):
    """`weighting`: `elbo` for the bound's weight 1/t, `uniform` for plain cross entropy of the masked tokens."""

    def __init__(self, mask_id: int, schedule: LogLinear | None = None, weighting: str = "elbo"):
        if weighting not in WEIGHTINGS:
            raise ValueError(f"text_weighting {weighting!r}: expected one of {', '.join(WEIGHTINGS)}")
        self.mask_id, self.schedule, self.weighting = mask_id, schedule or LogLinear(), weighting

    def noise(self, x0: Tensor, t: Tensor, rng: Rng, mask: Tensor | None = None) -> Tensor:
        """int64 [B, N] to int64 [B, N] with masks; positions outside `mask` (padding) are left alone.

        A row at t = 1 is masked entirely, a row at t = 0 not at all, whatever eps is: 1 is the prior a sampler starts from.
        """
        u = rng.uniform("text noise", x0.shape[1])
        hit = (u >= per_row(self.schedule.alpha(t.double()), u)) | (per_row(t, u) >= 1)
        if mask is not None:
            hit = hit & mask
        return x0.masked_fill(hit, self.mask_id)

    def prior(self, shape: tuple[int, ...], rng: Rng) -> Tensor:
        return torch.full(shape, self.mask_id, dtype=torch.long, device=rng.rows.device)

    def masked(self, x_t: Tensor, mask: Tensor | None = None) -> Tensor:
        """bool [B, N]: positions still to be revealed."""
        hit = x_t == self.mask_id
        return hit if mask is None else hit & mask

    def start_time(self, unknown: Tensor, seen: Tensor) -> Tensor:
        """Clock [B] of a text of which `unknown` bool [B, N] is masked and the rest of `seen` is given: the masked share."""
        return unknown.sum(dim=1).double() / seen.sum(dim=1)

    def weight(self, t: Tensor) -> Tensor:
        """float [B]: the weight of a row's masked cross entropy; under `elbo` +inf at t = 0, where no token is masked."""
        return self.schedule.weight(widen(t)) if self.weighting == "elbo" else torch.ones_like(widen(t))

    def cross_entropy(self, logits: Tensor, x0: Tensor, asked: Tensor) -> Tensor:
        """-log p of the true token at each asked position: logits [M, V], asked bool [B, N], to float32 [M]."""
        return token_nats(logits, x0[asked])[0]

    def loss(self, prediction: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:
        """Weighted nats of each row, float32 [B]; `prediction` [M, V] holds logits at the masked positions in row order.

        Under `elbo` its expectation over t ~ U(0, 1] and the noise bounds -log p(x_0), but for the share eps of tokens that the schedule
        never masks: it leaves out eps times the cross entropy of a fully masked row. A row without masked tokens costs 0.
        """
        asked = self.masked(x_t, mask)
        nats = self.cross_entropy(prediction, x0, asked)
        rows = asked.nonzero()[:, 0]
        weighted = nats * self.weight(t)[rows]
        return torch.zeros(len(t), dtype=weighted.dtype, device=weighted.device).index_add(0, rows, weighted)

    def reveal(self, x_t: Tensor, t: Tensor, s: Tensor, rng: Rng, mask: Tensor | None = None, remask: float = 0.0) -> Tensor:
        """bool [B, N]: the masked positions that become visible between t and s.

        What `remask` hides again is made up for: the share gains sigma alpha(t) / (1 - alpha(t)), so that x_s keeps its marginal.
        """
        u = rng.uniform("text reveal", x_t.shape[1])
        share = self.schedule.reveal_share(t.double(), s.double())
        if remask:
            alpha = self.schedule.alpha(t.double())
            share = share + self.schedule.remask_share(t.double(), s.double(), remask) * alpha / (1 - alpha)
        return self.masked(x_t, mask) & (u < per_row(share, u))

    def hide(self, x_t: Tensor, t: Tensor, s: Tensor, rng: Rng, mask: Tensor | None, remask: float) -> Tensor:
        """bool [B, N]: the visible positions inside `mask` that are masked again between t and s (Wang et al. 2025); none at s = 0."""
        u = rng.uniform("text remask", x_t.shape[1])
        visible = ~self.masked(x_t) if mask is None else ~self.masked(x_t) & mask
        return visible & (u < per_row(self.schedule.remask_share(t.double(), s.double(), remask), u))

    def step(self, x_t: Tensor, prediction: Tensor, t: Tensor, s: Tensor, rng: Rng) -> Tensor:
        """Ancestral step from drawn tokens: `prediction` int64 [B, N] is a draw from p(x_0 | x_t) at each position."""
        return torch.where(self.reveal(x_t, t, s, rng), prediction, x_t)
