"""From configuration to objectives: the only place that knows which key of `loss` goes to which constructor.

OBJECTIVES[name](loss, training) -> Objective
"""

from __future__ import annotations

from collections.abc import Callable

from lgdlm.config import Loss, Training
from lgdlm.diffusion.times import Level, Widening
from lgdlm.errors import InputError
from lgdlm.objectives.cycle_vae import CycleObjective, Ramp, Turns
from lgdlm.objectives.denoising import DenoisingObjective, Weights, denoising_objectives
from lgdlm.objectives.latent_cycle import LatentCycle
from lgdlm.objectives.latent_prior import PRIORS
from lgdlm.objectives.objective import Objective
from lgdlm.objectives.text_cycle import TextCycle
from lgdlm.objectives.variational import VariationalObjective


def _row(name: str) -> Callable[[Loss, Training], DenoisingObjective]:
    def build(loss: Loss, training: Training) -> DenoisingObjective:
        weights = Weights(
            loss.text_loss_weight, loss.latent_loss_weight, loss.length_loss_weight, loss.auxiliary_ce_weight, loss.embedding_mse_weight
        )
        levels = noise_levels(training)
        return denoising_objectives(weights, training.cfg_dropout_prob, loss.l2t_text_t_mode, loss.latent_t_mode, levels)[name]

    return build


def _cycle(loss: Loss, training: Training) -> CycleObjective:
    return CycleObjective(
        _row("l2t")(loss, training),
        _row("t2l")(loss, training),
        text=TextCycle(
            through=loss.cycle_text_through,
            t_mode=loss.cycle_text_t_mode,
            stop_gradient=loss.cycle_stop_grad_latent,
            update=loss.cycle_update,
            text_t_mode=loss.l2t_text_t_mode,
            length_weight=loss.length_loss_weight,
        ),
        text_weight=Ramp(loss.cycle_text_weight, loss.cycle_text_warmup_steps, loss.cycle_text_ramp_steps),
        latent=LatentCycle(
            sampling=loss.cycle_latent_sampling,
            t_min=loss.cycle_latent_t_min,
            t_max=loss.cycle_latent_t_max,
            temperature=loss.cycle_gumbel_temperature,
        ),
        latent_weight=Ramp(loss.cycle_latent_weight, loss.cycle_latent_warmup_steps, loss.cycle_latent_ramp_steps),
        turns=Turns(loss.cycle_every, loss.cycle_prob),
        prior=PRIORS.get(loss.prior_type),
        prior_weight=loss.prior_weight,
        probe_every=loss.cycle_probe_every,
    )


def _variational(loss: Loss, training: Training) -> VariationalObjective:
    return VariationalObjective(
        _row("l2t")(loss, training),
        kl_weight=loss.kl_weight,
        kl_warmup_steps=loss.kl_warmup_steps,
        free_bits=loss.free_bits,
        geom_weight=loss.geom_weight,
        prior_weight=loss.latent_loss_weight,
    )


def noise_levels(training: Training) -> list[Level]:
    """The curriculum of `training.noise_levels`; InputError where it is none."""
    levels = [Level(level.step, level.low, level.high) for level in training.noise_levels]
    try:
        return list(Widening(tuple(levels)).levels) if levels else []
    except ValueError as problem:
        raise InputError("CONFIG", "config", "training.noise_levels", f"{problem}") from problem


OBJECTIVES: dict[str, Callable[[Loss, Training], Objective]] = {
    "unconditional": _row("unconditional"),
    "l2t": _row("l2t"),
    "t2l": _row("t2l"),
    "cycle_vae": _cycle,
    "stage2_variational": _variational,
}


def build_objectives(names: set[str], loss: Loss, training: Training) -> dict[str, Objective]:
    """The objectives of `names`, keys of OBJECTIVES."""
    return {name: OBJECTIVES[name](loss, training) for name in sorted(names)}
