"""Stage II: the model learns its own latents.

    L = L_l2t(y | z) + kl_weight(step) sum_d max(free_bits, KL_d(q || p)) + geom_weight R_geom,   z ~ q(z | y)
    kl_weight(step) = kl_weight min(1, step / kl_warmup_steps)

Free bits are nats of one dimension of one text. For a diffusion prior, whose KL is an estimate, it is the closed part that is compared
with them: chance does not decide who is pulled.

L_l2t is in nats a token and KL in nats a text, as the earlier systems had them: kl_weight = 1 / (tokens of a text) is the bound itself.
A trained prior follows q at its own pace: it fits KL with `prior_weight` nats a token from the first step, whatever q is pulled with.

    R_geom = variance of log(|mu_i - mu_j| / |h_i - h_j|) over the six pairs of four texts

keeps the distances of the text states (pooled, held fixed) up to a common scale. Fours of neighbouring rows are independent texts, and
they stay together under accumulation, so the mean over fours is that of one large batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lgdlm.batch import Batch
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.models.latent_head import masked_mean
from lgdlm.models.posterior import Posterior
from lgdlm.objectives.cycle_vae import Ramp
from lgdlm.objectives.denoising import DenoisingObjective
from lgdlm.objectives.objective import LossReport, Ratio, Totals
from lgdlm.rng import Rng

FOUR = 4
NO_DISTANCE = 1e-6  # added to squared distances: two equal texts have a logarithm too


class VariationalObjective:
    """`decoder` is the l2t row with its weights, times and condition dropout."""

    def __init__(
        self,
        decoder: DenoisingObjective,
        *,
        kl_weight: float = 0.001,
        kl_warmup_steps: int = 0,
        free_bits: float = 0.0,
        geom_weight: float = 0.0,
        prior_weight: float = 1.0,
    ):
        self.decoder, self.kl_weight = decoder, Ramp(kl_weight, ramp=kl_warmup_steps)
        self.free_bits, self.geom_weight, self.prior_weight = free_bits, geom_weight, prior_weight

    def __call__(self, model: TextLatentDiffusion, batch: Batch, rng: Rng, totals: Totals) -> LossReport:
        q, states = model.read(batch.input_ids, batch.text_mask)
        z = q.draw(rng)
        report = self.decoder.of_latent(model, batch, z, rng, totals)
        kl, loss = self._divergence(model, q, z, rng, totals)
        total, parts = report.total + loss, dict(report.parts)
        with torch.no_grad():
            nats = kl.flatten(1).sum(dim=1)
            parts["kl"] = Ratio(float(nats.sum()), batch.size)
            parts["kl_weight"] = Ratio(self.kl_weight.at(rng.step) * batch.size, batch.size)
            parts["bound"] = Ratio(parts["nelbo"].top + float(nats.sum()), batch.tokens)
            parts["posterior_std"] = Ratio(float((0.5 * q.log_variance).exp().flatten(1).mean(dim=1).sum()), batch.size)
        if self.geom_weight:
            apart = distortion(masked_mean(states, batch.text_mask), q.mean.flatten(1))
            total = total + self.geom_weight * FOUR * apart.sum() / totals.rows
            parts["geometry"] = Ratio(float(apart.detach().sum()), len(apart))
        parts["loss"] = Ratio(float(total.detach()), batch.size / totals.rows)
        return LossReport(total, parts)

    def _divergence(self, model: TextLatentDiffusion, q: Posterior, z: Tensor, rng: Rng, totals: Totals) -> tuple[Tensor, Tensor]:
        """KL by dimension [B, L, D] as it is, and the loss: kl_weight in its value and towards q, prior_weight towards the prior."""
        assert model.prior is not None, "a posterior has its prior"
        fit, pull = (self.prior_weight or 1.0) / totals.tokens, self.kl_weight.at(rng.step) / totals.rows
        mean, log_variance, drawn = (_gradient_times(x, pull / fit) for x in (q.mean, q.log_variance, z))
        kl = model.prior.divergence(model, Posterior(mean, log_variance), drawn, rng)
        free = model.prior.closed(q).detach() < self.free_bits
        paid = kl.masked_fill(free, self.free_bits).sum()
        return kl.detach(), fit * paid + (pull - fit) * paid.detach()


def _gradient_times(x: Tensor, factor: float) -> Tensor:
    """x itself, whose gradient arrives multiplied."""
    return x.detach() + factor * (x - x.detach())


def distortion(states: Tensor, latents: Tensor) -> Tensor:
    """R_geom of each four of neighbouring rows, [B // 4]; rows behind the last whole four have none. `states` [B, H], `latents` [B, D]."""
    first, second = torch.triu_indices(FOUR, FOUR, 1, device=latents.device)

    def log_distances(x: Tensor) -> Tensor:
        fours = x.float()[: len(x) // FOUR * FOUR].view(-1, FOUR, x.shape[1])
        return 0.5 * ((fours[:, first] - fours[:, second]).square().sum(dim=2) + NO_DISTANCE).log()

    return (log_distances(latents) - log_distances(states.detach())).var(dim=1, unbiased=False)
