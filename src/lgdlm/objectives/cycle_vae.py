"""Cycle consistency: decoder and encoder, each also judged by what the other makes of it.

    L = w_l2t L_l2t + w_t2l L_t2l + w_ct(step) L_cycle_text + w_cl(step) L_cycle_latent + w_prior R_prior
    w(step) = w clip((step - warmup) / ramp, 0, 1)

Every term is made of single predictions: two passes for the base, and for each cycle one that reads or writes and one that is judged.
A cycle may sit out steps: it is due every `every`-th step, and then with probability `chance`, the same on all ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lgdlm.batch import Batch
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.objectives.denoising import DenoisingObjective
from lgdlm.objectives.latent_cycle import LatentCycle
from lgdlm.objectives.latent_prior import PriorTerm
from lgdlm.objectives.objective import LossReport, Ratio, Totals
from lgdlm.objectives.text_cycle import TextCycle, sampled_latent
from lgdlm.rng import Rng

TEXT, LATENT, PRIOR = 1, 2, 3  # counters of each term's own randomness; the base has the step's
LOGGED = {"mean": "cycle_text_loss", "sampled": "cycle_text_loss_sampled"}


@dataclass(frozen=True)
class Ramp:
    """0 up to step `warmup`, then a line to `weight` over `ramp` steps."""

    weight: float
    warmup: int = 0
    ramp: int = 0

    def at(self, step: int) -> float:
        if step <= self.warmup:
            return 0.0
        return self.weight * min(1.0, (step - self.warmup) / self.ramp) if self.ramp else self.weight


@dataclass(frozen=True)
class Turns:
    """When the cycles are due."""

    every: int = 1
    chance: float = 1.0

    def due(self, rng: Rng) -> bool:
        return rng.step % self.every == 0 and (self.chance >= 1 or float(rng.shared("cycle")) < self.chance)


class CycleObjective:
    """`decoder` is the l2t row and `encoder` the t2l row, with their weights, times and condition dropout.

    `probe_every`: steps between measurements, without gradient, of the text cycle through the latent that is not trained; 0: never.
    """

    def __init__(
        self,
        decoder: DenoisingObjective,
        encoder: DenoisingObjective,
        *,
        text: TextCycle,
        text_weight: Ramp,
        latent: LatentCycle,
        latent_weight: Ramp,
        turns: Turns,
        prior: PriorTerm | None = None,
        prior_weight: float = 0.0,
        probe_every: int = 10,
    ):
        self.decoder, self.encoder, self.turns, self.probe_every = decoder, encoder, turns, probe_every
        self.text, self.text_weight, self.latent, self.latent_weight = text, text_weight, latent, latent_weight
        self.prior, self.prior_weight = prior if prior_weight else None, prior_weight

    def __call__(self, model: TextLatentDiffusion, batch: Batch, rng: Rng, totals: Totals) -> LossReport:
        assert batch.latent is not None, "cycles need latents; the loader refuses data without them"
        z0 = model.standardise(batch.latent)
        # the base comes first: autocast keeps the first copy of a weight that it makes, and one made without gradient has none to give
        writing, reading = (row.of_latent(model, batch, z0, rng, totals) for row in (self.decoder, self.encoder))
        total, parts = writing.total + reading.total, _base(writing, reading)
        due = self.turns.due(rng)
        text_weight = self.text_weight.at(rng.step) if due else 0.0
        latent_weight = self.latent_weight.at(rng.step) if due else 0.0
        parts["cycle_text_weight"] = Ratio(text_weight, 1.0)
        parts["cycle_latent_weight"] = Ratio(latent_weight, 1.0)
        if text_weight or self.prior is not None:
            total = total + self._from_texts(model, batch, z0, text_weight, rng, totals, parts)
        if latent_weight:
            errors, t, pseudo = self.latent(model, z0, batch.input_ids.shape[1], rng.fold(LATENT))
            total = total + latent_weight * errors.sum() / totals.rows
            parts["cycle_latent_loss"] = Ratio(float(errors.detach().sum()), batch.size)
            parts["t_lat_mean"] = Ratio(float(t.sum()), batch.size)
            parts["pseudo_length"] = Ratio(float(pseudo.seen.sum()), batch.size)
        parts["loss"] = Ratio(float(total.detach()), batch.size / totals.rows)
        return LossReport(total, parts)

    def _from_texts(
        self, model: TextLatentDiffusion, batch: Batch, z0: Tensor, weight: float, rng: Rng, totals: Totals, parts: dict[str, Ratio]
    ) -> Tensor:
        """Everything that starts with a reading of the texts: the text cycle and the prior."""
        own, total = rng.fold(TEXT), z0.new_zeros(())
        with torch.set_grad_enabled(torch.is_grad_enabled() and (self.prior is not None or not self.text.stop_gradient)):
            mean = self.text.read(model, batch, z0, own)
        latents = {"mean": mean, "sampled": sampled_latent(mean, z0, own)}
        parts["x0_pred_norm"] = Ratio(float(mean.detach().flatten(1).norm(dim=1).sum()), batch.size)
        if weight:
            report = self.text.write(model, batch, latents[self.text.through], own, totals)
            total = total + weight * report.total
            parts[LOGGED[self.text.through]] = report.parts["text_loss"]
            parts["cycle_text_accuracy"] = report.parts["text_accuracy"]
            if self.probe_every and rng.step % self.probe_every == 0:
                (other,) = latents.keys() - {self.text.through}
                with torch.no_grad():
                    parts[LOGGED[other]] = self.text.write(model, batch, latents[other], own, totals).parts["text_loss"]
        if self.prior is not None:
            values = self.prior(model, latents["sampled"], z0, batch.text_mask, rng.fold(PRIOR))
            total = total + self.prior_weight * values.sum() / totals.rows
            parts["prior_loss"] = Ratio(float(values.detach().sum()), len(values))
        return total


def _base(writing: LossReport, reading: LossReport) -> dict[str, Ratio]:
    """The metrics of both passes under the names that cycle runs have."""
    parts = {name: part for name, part in (reading.parts | writing.parts).items() if name not in ("loss", "text_loss", "latent_loss")}
    return parts | {"base_l2t_text_loss": writing.parts["text_loss"], "base_t2l_latent_loss": reading.parts["latent_loss"]}
