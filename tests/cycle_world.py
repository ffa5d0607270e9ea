"""Cycles on small models: batches, objectives with one term at a time, and which parameters a loss moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lgdlm.batch import Batch
from lgdlm.config import MODELS
from lgdlm.models.build import build_model
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.objectives.cycle_vae import CycleObjective, Ramp, Turns
from lgdlm.objectives.denoising import MODES, DenoisingObjective, Weights
from lgdlm.objectives.latent_cycle import LatentCycle
from lgdlm.objectives.latent_prior import PRIORS
from lgdlm.objectives.objective import LossReport, Totals
from lgdlm.objectives.text_cycle import TextCycle
from lgdlm.rng import Rng

V, D, LONGEST = 12, 3, 10
NOTHING = Weights(0.0, 0.0, 0.0)


def small_model(denoiser: str = "transformer", **keys: Any) -> TextLatentDiffusion:
    """Two blocks, and every parameter off its initial value, so that no gradient is zero by a zero gate."""
    own = {"head_size": 8} if denoiser == "rwkv7" else {"n_heads": 2}
    config = MODELS[denoiser](**{"hidden_size": 16, "n_blocks": 2, "latent_dim": D, "max_seq_len": LONGEST, **own, **keys})
    model = build_model(config, vocab_size=V, eos_id=0, latent_mean=torch.ones(D), latent_std=torch.full((D,), 2.0))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.1)
    return model


def batch(rows: int = 6, width: int = 5, seed: int = 5, start: int = 0) -> Batch:
    """Rows `start` and up of a fixed set of texts without EOS."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, V, (16, width), generator=g)[start : start + rows]
    latent = torch.randn(16, 1, D, generator=g)[start : start + rows]
    return Batch(ids, torch.ones_like(ids, dtype=torch.bool), latent, torch.arange(start, start + rows))


def cycle(
    *,
    base: Weights | None = None,
    text: Mapping[str, Any] | None = None,
    text_weight: float = 0.0,
    latent: Mapping[str, Any] | None = None,
    latent_weight: float = 0.0,
    prior: str = "none",
    dropout: float = 0.0,
    **more: Any,
) -> CycleObjective:
    """The objective with the terms that have a weight; without `base` weights the base moves nothing."""
    weights = base or NOTHING
    options: dict[str, Any] = {"turns": Turns(), "probe_every": 0, "prior_weight": 1.0, **more}
    return CycleObjective(
        DenoisingObjective(MODES["l2t"], weights, dropout),
        DenoisingObjective(MODES["t2l"], weights, dropout),
        text=TextCycle(**(text or {})),
        text_weight=Ramp(text_weight),
        latent=LatentCycle(**(latent or {})),
        latent_weight=Ramp(latent_weight),
        prior=PRIORS.get(prior),
        **options,
    )


def report(
    objective: Any, model: TextLatentDiffusion, data: Batch | None = None, step: int = 1, totals: Totals | None = None
) -> LossReport:
    data = data or batch()
    return objective(model, data, Rng(3, step, data.rows), totals or Totals(data.tokens, data.size))


def row(mode: str, weights: Weights | None = None, dropout: float = 0.0) -> DenoisingObjective:
    return DenoisingObjective(MODES[mode], weights or Weights(), dropout)


def moved(model: TextLatentDiffusion, loss: Tensor) -> set[str]:
    """Names of the parameters whose gradient is not zero."""
    model.zero_grad(set_to_none=True)
    if loss.requires_grad:
        loss.backward()
    return {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
