"""The three rows: which clock each modality runs on, and which predictions are scored.

    unconditional (= stage1_coupling)   t_text ~ U(0,1]   t_latent ~ U(0,1]   text and latent
    l2t, the decoder                    t_text ~ U(0,1]   t_latent = 0        text
    t2l, the encoder                    t_text = 0        t_latent ~ U(0,1]   latent

Condition dropout noises the condition fully, row by row: the same network is its own unconditional model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lgdlm.batch import Batch
from lgdlm.diffusion.embedding import EmbeddingDiffusion
from lgdlm.diffusion.times import TIME_POLICIES, Clean, Level, TimePolicy, Uniform, Widening
from lgdlm.models.denoiser import NoisyPair, Prediction
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.objectives.objective import LossReport, Ratio, Totals
from lgdlm.objectives.text_score import text_score
from lgdlm.rng import Rng

FILL_WEIGHT = 0.1  # gradient weight of the EOS filling behind a text's end; it is never reported


@dataclass(frozen=True)
class Mode:
    """One row. `condition` names the modality that condition dropout may take away."""

    text: TimePolicy
    latent: TimePolicy
    scores: tuple[str, ...]
    condition: str | None = None


MODES: dict[str, Mode] = {
    "unconditional": Mode(Uniform(), Uniform(), ("text", "latent")),
    "l2t": Mode(Uniform(), Clean(), ("text",), condition="latent"),
    "t2l": Mode(Clean(), Uniform(), ("latent",), condition="text"),
}


@dataclass(frozen=True)
class Weights:
    """Weight of each term; text and length are in nats per real token, the latent in mean squared error.

    Inside the text's: `cross_entropy`, the plain one beside the process's own loss, and `squared_error` of embedding diffusion.
    """

    text: float = 1.0
    latent: float = 1.0
    length: float = 1.0
    cross_entropy: float = 0.0
    squared_error: float = 1.0


class DenoisingObjective:
    """One row with its weights and its condition dropout (share of rows)."""

    def __init__(self, mode: Mode, weights: Weights | None = None, condition_dropout: float = 0.0):
        self.mode, self.weights, self.condition_dropout = mode, weights or Weights(), condition_dropout

    def __call__(self, model: TextLatentDiffusion, batch: Batch, rng: Rng, totals: Totals) -> LossReport:
        assert batch.latent is not None, "Stage I needs latents; the loader refuses data without them"
        return self.of_latent(model, batch, model.standardise(batch.latent), rng, totals)

    def of_latent(self, model: TextLatentDiffusion, batch: Batch, z0: Tensor, rng: Rng, totals: Totals) -> LossReport:
        """The row's losses where the texts of `batch` have the standardised latents z0 [B, L, D], whosever they are."""
        pair = self.question(model, batch, z0, rng)
        if "text" in self.mode.scores and _shown_own_estimate(model, rng):
            pair = model.self_conditioned(pair)
        answer = model(pair)
        total, parts = z0.new_zeros(()), dict[str, Ratio]()
        if "text" in self.mode.scores:
            total = total + self._text(model, batch, pair, answer, totals, parts)
        if "latent" in self.mode.scores:
            if pair.context is not None:  # clean blocks would tell the latent what its text's clock says is hidden
                answer = model(pair.at(context=None, logits_at=torch.zeros_like(pair.attention_mask)))
            total = total + self._latent(model, z0, pair, answer, totals, parts)
        parts["latent_norm"] = Ratio(float(z0.detach().flatten(1).norm(dim=1).sum()), batch.size)
        parts["loss"] = Ratio(float(total.detach()), batch.size / totals.rows)
        return LossReport(total, parts)

    def question(self, model: TextLatentDiffusion, batch: Batch, z0: Tensor, rng: Rng) -> NoisyPair:
        """Both modalities noised by their clocks; logits are asked only where a masked token will be scored.

        Where the text is the condition its filling is not shown: a known text has a known end.
        """
        t_text, t_latent = self.mode.text(rng, "text"), self.mode.latent(rng, "latent")
        dropped = rng.uniform("condition dropout") < self.condition_dropout
        if self.mode.condition == "text":
            t_text = t_text.masked_fill(dropped, 1.0)
        elif self.mode.condition == "latent":
            t_latent = t_latent.masked_fill(dropped, 1.0)
        scored = "text" in self.mode.scores
        seen = batch.attention_mask if scored else batch.text_mask
        text = model.text_process.noise(batch.input_ids, t_text, rng, seen)
        pair = NoisyPair(
            text=text,
            t_text=t_text,
            latent=model.latent_process.noise(z0, t_latent, rng),
            t_latent=t_latent,
            attention_mask=seen,
        )
        if not scored:
            return pair.at(logits_at=torch.zeros_like(seen))
        return model.over(pair.at(logits_at=model.text_process.masked(text, seen)), batch.input_ids)

    def _text(
        self, model: TextLatentDiffusion, batch: Batch, pair: NoisyPair, answer: Prediction, totals: Totals, parts: dict[str, Ratio]
    ) -> Tensor:
        asked = pair.logits_at
        assert asked is not None
        score = text_score(model.text_process, batch, pair, answer, self.weights.cross_entropy, self.weights.squared_error)
        counted = torch.where(batch.text_mask[asked], 1.0, FILL_WEIGHT)
        loss = self.weights.text * (score.loss * counted).sum() / totals.tokens
        parts |= score.parts
        bound = score.bound
        if model.length is not None:
            length = model.length.loss(pair.latent, pair.t_latent, batch.lengths).sum()
            loss = loss + self.weights.length * length / totals.tokens
            parts["length_loss"] = Ratio(float(length.detach()), batch.size)
            bound = None if bound is None else bound + length.detach()
        if bound is not None:
            parts["nelbo"] = Ratio(float(bound), batch.tokens)
        return loss

    def _latent(
        self, model: TextLatentDiffusion, z0: Tensor, pair: NoisyPair, answer: Prediction, totals: Totals, parts: dict[str, Ratio]
    ) -> Tensor:
        losses = model.latent_process.loss(answer.latent, z0, pair.latent, pair.t_latent)
        with torch.no_grad():
            parts["latent_loss"] = Ratio(float(losses.sum()), len(losses))
            parts["latent_pred_norm"] = Ratio(float(answer.latent.float().flatten(1).norm(dim=1).sum()), len(losses))
        return self.weights.latent * losses.sum() / totals.rows


def _shown_own_estimate(model: TextLatentDiffusion, rng: Rng) -> bool:
    """Whether this step's texts are asked about with the network's own first estimate beside them: the same on all ranks."""
    process = model.text_process
    return isinstance(process, EmbeddingDiffusion) and float(rng.shared("self-conditioning")) < process.self_conditioning


def denoising_objectives(
    weights: Weights,
    condition_dropout: float,
    l2t_text_t_mode: str = "random",
    latent_t_mode: str = "random",
    levels: Sequence[Level] = (),
) -> dict[str, DenoisingObjective]:
    """The three objectives with the chosen time policies; `full` puts the scored modality of l2t or t2l at t = 1 always, and random times
    keep to the range that `levels` allow at the step."""
    policies = {**TIME_POLICIES, "random": Widening(tuple(levels))} if levels else TIME_POLICIES
    modes = dict(MODES)
    modes["unconditional"] = replace(modes["unconditional"], text=policies["random"], latent=policies["random"])
    modes["l2t"] = replace(modes["l2t"], text=policies[l2t_text_t_mode])
    modes["t2l"] = replace(modes["t2l"], latent=policies[latent_t_mode])
    return {name: DenoisingObjective(mode, weights, condition_dropout) for name, mode in modes.items()}
