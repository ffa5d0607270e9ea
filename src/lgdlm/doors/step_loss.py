"""One step's loss under the signature of the old trainer.

    MultimodalDiffusionTrainer_new(model, tokenizer, text_noise_schedule, dtype, config).forward(batch, step=None) -> loss, metrics

The objective is the one that `loss.loss_type` (or `training.loss_type`) names, at that step: the same that `lgdlm train` takes. Optimizer,
clipping, guard and checkpoints are the loop's affair; a loop of one's own calls this and then `loss.backward()`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lgdlm.batch import Batch
from lgdlm.diffusion.masked import MaskedDiffusion
from lgdlm.diffusion.schedule import LogLinear
from lgdlm.doors import text_noise
from lgdlm.doors.network import OldNetwork
from lgdlm.doors.old_config import read_config
from lgdlm.doors.samplers import inner
from lgdlm.objectives.build import build_objectives
from lgdlm.objectives.objective import Totals
from lgdlm.rng import Rng
from lgdlm.training.modes import refuse_contradictions, schedule_for, trained_modes

DTYPES: dict[Any, torch.dtype | None] = {
    "bf16": torch.bfloat16,
    "fp32": None,
    torch.bfloat16: torch.bfloat16,
    torch.float32: None,
    None: None,
}
PHASE_STEPS = 1  # an epoch of a schedule in epochs: without a loader there is nothing to count


class MultimodalDiffusionTrainer_new(nn.Module):  # noqa: N801 - a name that people know
    """See the module. `model` is a network of the doors or a `TextLatentDiffusion`; `tokenizer` has to have its vocabulary, or is None.

    text_noise_schedule   None: the model's own; else a door's `MaskedDiffusion` or a `LogLinear`, whose schedule is taken
    dtype                 bf16 or fp32, as words or torch's: autocast of the network; times and losses stay float32
    config                what `read_config` takes: `loss`, `training` and the time policies are read from it

    Raises InputError for settings that cannot work, ValueError for another vocabulary or dtype.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, text_noise_schedule: Any, dtype: Any, config: Any):
        super().__init__()
        self.model, diffusion = model, inner(model)
        if dtype not in DTYPES:
            raise ValueError(f"dtype {dtype!r}: expected bf16 or fp32; half precision of times and losses is not offered")
        held = getattr(tokenizer, "vocab_size", None)
        if held is not None and held != diffusion.mask_id:
            raise ValueError(f"the tokenizer has {held} ids, the model {diffusion.mask_id}")
        self.compute_dtype = DTYPES[dtype]
        self.config = read_config(config, model.config.model.denoiser if isinstance(model, OldNetwork) else _denoiser_of(config))
        refuse_contradictions(self.config)
        self.schedule = schedule_for(self.config, PHASE_STEPS)
        self.objectives = build_objectives(trained_modes(self.config), self.config.loss, self.config.training)
        if text_noise_schedule is not None:
            diffusion.text_process = _text_process(text_noise_schedule, diffusion.mask_id, self.config.loss.text_weighting)
        self.steps = 0

    def forward(self, batch: Mapping[str, Any], step: int | None = None) -> tuple[Tensor, dict[str, float]]:
        """The loss, differentiable, and the metrics of one batch: input_ids int64 [B, N], attention_mask [B, N] (None: all real) and
        latent [B, L, D] or [B, D] (or `latents`). `step` None counts the calls; randomness is a function of (seed, step)."""
        self.steps = self.steps + 1 if step is None else step
        ours = as_batch(batch)
        diffusion = inner(self.model)
        rng = Rng(self.config.training.seed, self.steps, ours.rows)
        with torch.autocast(diffusion.device.type, self.compute_dtype, enabled=self.compute_dtype is not None):
            report = self.objectives[self.schedule.at(self.steps)](diffusion, ours, rng, Totals(ours.tokens, ours.size))
        return report.total, report.metrics


def as_batch(batch: Mapping[str, Any]) -> Batch:
    """The batch of the old keys. Raises KeyError without input_ids."""
    ids = batch["input_ids"].long()
    mask = batch.get("attention_mask")
    latent = batch.get("latent", batch.get("latents"))
    return Batch(
        input_ids=ids,
        attention_mask=torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool(),
        latent=latent[:, None] if latent is not None and latent.dim() == 2 else latent,
        rows=torch.arange(len(ids), device=ids.device),
    )


def _denoiser_of(config: Any) -> str:
    """The network that a configuration of ours names; the plain one for a mapping that names none."""
    model = getattr(config, "model", None)
    return str(getattr(model, "denoiser", "transformer"))


def _text_process(given: Any, mask_id: int, weighting: str) -> MaskedDiffusion:
    schedule = given.schedule if isinstance(given, text_noise.MaskedDiffusion) else given
    if not isinstance(schedule, LogLinear):
        raise ValueError(f"text_noise_schedule: a MaskedDiffusion or a LogLinear is expected, got {type(given).__name__}")
    return MaskedDiffusion(mask_id, schedule, weighting)
