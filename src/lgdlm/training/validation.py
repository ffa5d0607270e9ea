"""The losses of every mode on held-out text: the same rows, times and noise at every call, so that two calls compare.

nelbo_given_z    l2t without condition dropout: nats per token, the length included
nelbo_alone      the same with every latent dropped: the unconditional bound
latent_loss      t2l

In embedding diffusion, which has no bound of tokens, the first two give way to what l2t reports of its estimates, with and without z:

text_squared_error, text_cross_entropy, text_accuracy

and of a model with a posterior, from z ~ q(z | y):

reconstruction   nats per token given z            kl, kl_dimension_DD   nats per text, of all dimensions and of each
bound            reconstruction + KL per token     active_units          dimensions in use
"""

from __future__ import annotations

import json

import numpy as np
import torch

from lgdlm.batch import Batch
from lgdlm.data.loader import Loader
from lgdlm.diffusion.embedding import EmbeddingDiffusion
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.objectives.denoising import MODES, DenoisingObjective
from lgdlm.objectives.latent_usage import active_units, moments
from lgdlm.objectives.objective import Objective, Ratio, Totals, add_parts, mean_of
from lgdlm.objectives.variational import VariationalObjective
from lgdlm.rng import Rng
from lgdlm.training.distributed import ALONE, World

Check = tuple[Objective, dict[str, str]]  # an objective, and its metrics by the names they are logged under
Seen = tuple[int, list[dict[str, Ratio]], np.ndarray | None]  # of a batch: its step, each check's metrics, and the use of its latents
NO_LATENT = DenoisingObjective(MODES["l2t"], condition_dropout=1.0)

STAGE1: tuple[Check, ...] = (
    (DenoisingObjective(MODES["l2t"]), {"nelbo_given_z": "nelbo"}),
    (NO_LATENT, {"nelbo_alone": "nelbo"}),
    (DenoisingObjective(MODES["t2l"]), {"latent_loss": "latent_loss"}),
)
OF_ESTIMATES = ("text_squared_error", "text_cross_entropy", "text_accuracy")
EMBEDDED: tuple[Check, ...] = (
    (STAGE1[0][0], {f"{metric}_given_z": metric for metric in OF_ESTIMATES}),
    (NO_LATENT, {f"{metric}_alone": metric for metric in OF_ESTIMATES}),
    STAGE1[2],
)
STAGE2: Check = (VariationalObjective(DenoisingObjective(MODES["l2t"])), {"reconstruction": "nelbo", "kl": "kl", "bound": "bound"})
STAGE2_ALONE: Check = (VariationalObjective(NO_LATENT), {"nelbo_alone": "nelbo"})  # where the data have no latents to drop


def checks_for(model: TextLatentDiffusion, has_latents: bool) -> list[Check]:
    """What can be measured: Stage I where the data have latents, Stage II where the model has a posterior."""
    of_stage2 = [] if model.posterior is None else [STAGE2]
    if has_latents:
        of_text = EMBEDDED if isinstance(model.text_process, EmbeddingDiffusion) else STAGE1
        return [*of_text, *of_stage2]
    return [*of_stage2, STAGE2_ALONE] if of_stage2 else []


@torch.no_grad()
def validate(
    model: TextLatentDiffusion, loader: Loader, batches: int, seed: int, compute_dtype: torch.dtype | None, world: World = ALONE
) -> dict[str, float]:
    """Means over the first `batches` steps of an unshuffled validation loader; the model is left in `eval` mode.

    Ranks take turns in the steps and add up in the steps' order, so the figures do not depend on their number. Sharded ranks go through
    all steps together, each for itself (`world` is then that of one).
    """
    model.eval()
    checks = checks_for(model, loader.dataset.has_latents)
    sums: list[dict[str, Ratio]] = [{} for _ in checks]
    seen: list[Seen] = []
    for step in range(1, min(batches, loader.steps_per_epoch) + 1):
        if step % world.size != world.rank:
            continue
        data = loader.step(step)
        for batch in (b.to(model.device) for b in data.batches):
            rng = Rng(seed, step, batch.rows)
            with torch.autocast(model.device.type, compute_dtype, enabled=compute_dtype is not None):
                parts = [objective(model, batch, rng, Totals(data.tokens, data.rows)).parts for objective, _ in checks]
                seen.append((step, parts, None if model.posterior is None else _usage(model, batch, rng)))
    usage = []
    for _, of_checks, moments_of_texts in _of_all(seen, world):
        for found, of_check in zip(sums, of_checks, strict=True):
            add_parts(found, of_check)
        if moments_of_texts is not None:
            usage.append(moments_of_texts)
    means = [mean_of(found) for found in sums]
    record = {name: mean[metric] for (_, wanted), mean in zip(checks, means, strict=True) for name, metric in wanted.items()}
    if usage:
        record |= _of_dimensions(np.concatenate(usage), model.latent_shape[0] * model.latent_shape[1])
    return {f"validation/{name}": value for name, value in record.items()}


def _of_all(seen: list[Seen], world: World) -> list[Seen]:
    """What all ranks have seen, by step; JSON keeps every bit of a float64."""
    if world.size == 1:
        return seen
    ratios = [[[(n, r.top, r.bottom) for n, r in p.items()] for p in parts] for _, parts, _ in seen]
    packed = json.dumps([(step, r, None if u is None else u.tolist()) for r, (step, _, u) in zip(ratios, seen, strict=True)])
    found = [entry for text in world.gather(packed) for entry in json.loads(text)]
    return [
        (step, [{n: Ratio(top, bottom) for n, top, bottom in p} for p in parts], None if u is None else np.array(u))
        for step, parts, u in sorted(found, key=lambda entry: entry[0])
    ]


def _usage(model: TextLatentDiffusion, batch: Batch, rng: Rng) -> np.ndarray:
    """Of each text: KL by dimension, then `moments`; float64 [B, D + 3 D + 1]."""
    assert model.prior is not None
    q, _ = model.read(batch.input_ids, batch.text_mask)
    kl = model.prior.divergence(model, q, q.draw(rng), rng).flatten(1).double().cpu().numpy()
    return np.concatenate([kl, moments(q)], axis=1)


def _of_dimensions(usage: np.ndarray, size: int) -> dict[str, float]:
    by_dimension = {f"kl_dimension_{d:02}": float(value) for d, value in enumerate(usage[:, :size].mean(axis=0))}
    return {"active_units": float(active_units(usage[:, size:].sum(axis=0))), **by_dimension}
