"""Which modes a configuration trains, and when: `loss.loss_type` with its shares or phases as an `ObjectiveSchedule`."""

from __future__ import annotations

from collections.abc import Mapping

from lgdlm.config import Config, Phase
from lgdlm.errors import InputError
from lgdlm.objectives.denoising import MODES
from lgdlm.objectives.schedule import Constant, ObjectiveSchedule, Random, Sequential

ALIASES = {"stage1_coupling": "unconditional"}


def refuse_contradictions(config: Config) -> None:
    """Settings that each are valid and together cannot work."""
    model, loss = config.model, config.loss
    modes = trained_modes(config)
    if not config.data.use_external_latents:
        raise InputError(
            "CONFIG",
            "config",
            "data.use_external_latents",
            f"false leaves no latents, and loss.loss_type={loss.loss_type} learns from them",
        )
    if model.latent_len != 1:
        raise InputError("CONFIG", "config", "model.latent_len", f"the data holds one latent a text, got {model.latent_len}: use 1")
    if model.latent_parameterization == "epsilon" and loss.latent_t_mode == "full" and "t2l" in modes:
        raise InputError(
            "CONFIG", "config", "model.latent_parameterization",
            "epsilon with loss.latent_t_mode=full would train t2l to copy its input: at t = 1 the noise is the whole input and the"
            " latent cannot be recovered; use v_param",
        )  # fmt: skip
    if getattr(model, "causality", "") == "causal" and model.latent_pred_from == "prefix" and modes & {"t2l", "unconditional"}:
        raise InputError(
            "CONFIG", "config", "model.latent_pred_from",
            "prefix states of a causal network come before the text and cannot see it; use text or both",
        )  # fmt: skip


def canonical(name: str) -> str:
    return ALIASES.get(name, name)


def trained_modes(config: Config) -> set[str]:
    kind = canonical(config.loss.loss_type)
    if kind == "random":
        return {canonical(name) for name, weight in config.training.mode_weights.items() if weight > 0}
    if kind == "sequential":
        return {canonical(phase.type) for phase in config.training.sequential_schedule}
    return {kind}


def schedule_for(config: Config, steps_per_epoch: int) -> ObjectiveSchedule:
    """The schedule that `loss.loss_type` names; InputError for shares or phases that mean nothing."""
    t, kind = config.training, canonical(config.loss.loss_type)
    try:
        if kind == "random":
            return Random(mode_shares(t.mode_weights), t.seed)
        if kind == "sequential":
            return Sequential([(canonical(p.type), phase_steps(p, steps_per_epoch)) for p in t.sequential_schedule])
    except ValueError as problem:
        raise InputError("CONFIG", "config", "training", str(problem)) from problem
    return Constant(kind)


def mode_shares(weights: Mapping[str, float]) -> dict[str, float]:
    """`training.mode_weights` under the modes' own names; ValueError for an unknown mode, or one that stands twice."""
    if unknown := [name for name in weights if canonical(name) not in MODES]:
        raise ValueError(f"mode_weights: {unknown[0]!r} is no mode; valid: {', '.join([*MODES, *ALIASES])}")
    positive = [name for name, weight in weights.items() if weight != 0]
    if twice := [name for name in positive if name in ALIASES and ALIASES[name] in positive]:
        raise ValueError(f"mode_weights: {twice[0]} is the same mode as {ALIASES[twice[0]]}; give one of them 0")
    shares = dict.fromkeys(map(canonical, weights), 0.0)
    for name in positive:
        shares[canonical(name)] = weights[name]
    return shares


def phase_steps(phase: Phase, steps_per_epoch: int) -> int:
    if (phase.steps is None) == (phase.epochs is None):
        raise ValueError(f"sequential_schedule: a phase has either steps or epochs, got {phase.steps} and {phase.epochs} for {phase.type}")
    return phase.steps if phase.steps is not None else (phase.epochs or 0) * steps_per_epoch
