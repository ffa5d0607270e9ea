"""The losses of every mode on held-out text: the same rows, times and noise at every call, so that two calls compare.

nelbo_given_z    l2t without condition dropout: nats per token, the length included
nelbo_alone      the same with every latent dropped: the unconditional bound
latent_loss      t2l
"""

from __future__ import annotations

import torch

from lgdlm.data.loader import Loader
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.objectives.denoising import MODES, DenoisingObjective
from lgdlm.objectives.objective import Ratio, Totals, add_parts, mean_of
from lgdlm.rng import Rng

CHECKS = {
    "nelbo_given_z": (DenoisingObjective(MODES["l2t"]), "nelbo"),
    "nelbo_alone": (DenoisingObjective(MODES["l2t"], condition_dropout=1.0), "nelbo"),
    "latent_loss": (DenoisingObjective(MODES["t2l"]), "latent_loss"),
}


@torch.no_grad()
def validate(model: TextLatentDiffusion, loader: Loader, batches: int, seed: int, compute_dtype: torch.dtype | None) -> dict[str, float]:
    """Means over the first `batches` steps of an unshuffled validation loader; the model is left in `eval` mode."""
    model.eval()
    sums: dict[str, dict[str, Ratio]] = {name: {} for name in CHECKS}
    for step in range(1, min(batches, loader.steps_per_epoch) + 1):
        data = loader.step(step)
        for batch in (b.to(model.device) for b in data.batches):
            for name, (objective, _) in CHECKS.items():
                with torch.autocast(model.device.type, compute_dtype, enabled=compute_dtype is not None):
                    report = objective(model, batch, Rng(seed, step, batch.rows), Totals(data.tokens, data.rows))
                add_parts(sums[name], report.parts)
    return {f"validation/{name}": mean_of(sums[name])[key] for name, (_, key) in CHECKS.items()}
