"""Which modes a configuration trains, and when: `loss.loss_type` with its shares or phases as an `ObjectiveSchedule`."""

from __future__ import annotations

from collections.abc import Mapping

from lgdlm.config import Config, Phase
from lgdlm.data.epoch import group_rows
from lgdlm.diffusion.gaussian import GaussianDiffusion
from lgdlm.errors import InputError
from lgdlm.models.build import build_schedule
from lgdlm.objectives.build import OBJECTIVES
from lgdlm.objectives.schedule import Constant, ObjectiveSchedule, Random, Sequential
from lgdlm.objectives.variational import FOUR

ALIASES = {"stage1_coupling": "unconditional"}
STAGE2 = "stage2_variational"
CYCLE = "cycle_vae"


def refuse_contradictions(config: Config) -> None:
    """Settings that each are valid and together cannot work."""
    model, loss = config.model, config.loss
    modes = trained_modes(config)
    if not config.data.use_external_latents and modes != {STAGE2}:
        raise InputError(
            "CONFIG",
            "config",
            "data.use_external_latents",
            f"false leaves no latents, and loss.loss_type={loss.loss_type} learns from them",
        )
    refuse_stages(config, modes)
    refuse_text_process(config, modes)
    if CYCLE in modes:
        refuse_cycles(config, modes)
        modes = modes | {"l2t", "t2l"}
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


def refuse_stages(config: Config, modes: set[str]) -> None:
    """Stage II needs its parts, and its parts need Stage II."""
    model, loss, stage, stage2 = config.model, config.loss, config.training.stage_schedule, STAGE2 in modes
    if stage is not None and (stage == STAGE2) != stage2:
        raise InputError(
            "CONFIG", "config", "training.stage_schedule", f"{stage} and loss.loss_type={loss.loss_type} disagree; give one of them"
        )
    if stage2 == (model.latent_encoder_type == "none"):
        message = f"{STAGE2} learns q(z | y): use mlp, rwkv_pool or transformer" if stage2 else f"only {STAGE2} trains it; use none"
        raise InputError("CONFIG", "config", "model.latent_encoder_type", message)
    if model.latent_encoder_start == "reading":
        wrong = {
            "latent_encoder_start": (not stage2, f"only {STAGE2} has an encoder; use features"),
            "checkpoint_path": (
                model.checkpoint_path is None,
                "latent_encoder_start=reading corrects what a Stage I model reads: name its run",
            ),
            "latent_parameterization": (
                model.latent_parameterization == "epsilon",
                "epsilon reads nothing at t = 1; use latent_encoder_start=features",
            ),
        }
        for name, (refused, message) in wrong.items():
            if refused:
                raise InputError("CONFIG", "config", f"model.{name}", message)
    if not stage2:
        return
    if not loss.latent_loss_weight and model.latent_prior_type != "fixed_gaussian":
        raise InputError("CONFIG", "config", "loss.latent_loss_weight", f"0 would leave the {model.latent_prior_type} prior untrained")
    if model.latent_skip != "none" and not config.data.use_external_latents and model.checkpoint_path is None:
        message = "its regression needs latents: use none, or start from a checkpoint that has it (model.checkpoint_path)"
        raise InputError("CONFIG", "config", "model.latent_skip", message)
    rows = group_rows(config.training.train_batch_size * config.training.gradient_accumulation_steps, config.data.bucket_rows)
    if loss.geom_weight and (rows % FOUR or config.training.train_batch_size % FOUR):
        message = f"compares texts in fours: training.train_batch_size and data.bucket_rows must be multiples of {FOUR}"
        raise InputError("CONFIG", "config", "loss.geom_weight", message)


def refuse_text_process(config: Config, modes: set[str]) -> None:
    """Embedding diffusion has no masks and no bound of tokens; masked diffusion has no embeddings to estimate."""
    model, loss = config.model, config.loss
    embedded = model.text_process == "embedding"
    wrong = {
        "loss.text_weighting": (embedded and loss.text_weighting == "elbo", "elbo is the bound of masked tokens: use uniform or epsilon"),
        "loss.auxiliary_ce_weight": (
            embedded and not loss.auxiliary_ce_weight and not loss.embedding_mse_weight,
            "0 beside loss.embedding_mse_weight=0 leaves the text without a loss",
        ),
        "model.latent_skip": (embedded and model.latent_skip != "none", "reads visible tokens, and noised embeddings are none: use none"),
        "loss.loss_type": (embedded and STAGE2 in modes, f"{STAGE2} needs a bound of the text's tokens: use model.text_process=masked"),
        "model.self_conditioning_prob": (not embedded and model.self_conditioning_prob > 0, "belongs to model.text_process=embedding"),
        "model.text_beta_schedule": (not embedded and model.text_beta_schedule != "cosine", "belongs to model.text_process=embedding"),
        "loss.embedding_mse_weight": (not embedded and loss.embedding_mse_weight != 1, "belongs to model.text_process=embedding"),
    }
    for key, (refused, message) in wrong.items():
        if refused:
            raise InputError("CONFIG", "config", key, message)


def refuse_cycles(config: Config, modes: set[str]) -> None:
    """Cycles need latents that can be recovered, and every term something that it may move."""
    loss, epsilon = config.loss, config.model.latent_parameterization == "epsilon"
    if loss.cycle_latent_t_min > loss.cycle_latent_t_max:
        raise InputError("CONFIG", "config", "loss.cycle_latent_t_min", f"lies above cycle_latent_t_max={loss.cycle_latent_t_max}")
    if epsilon and (loss.cycle_text_weight or loss.prior_type != "none"):
        raise InputError(
            "CONFIG", "config", "model.latent_parameterization",
            "epsilon cannot recover z from pure noise (its error is divided by alpha = 0), and the text cycle would pass that on;"
            " use v_param, or loss.cycle_text_weight=0 and prior_type=none",
        )  # fmt: skip
    latest = GaussianDiffusion(build_schedule(config.model), config.model.latent_parameterization).latest_time
    if loss.cycle_latent_weight and loss.cycle_latent_t_max > latest:
        message = f"epsilon recovers z up to t = {latest:.4f}; take that or less, or v_param"
        raise InputError("CONFIG", "config", "loss.cycle_latent_t_max", message)
    if loss.cycle_latent_weight and getattr(config.model, "block_context", "noisy") == "clean":
        message = "its pseudo-text is one prediction, and block diffusion never predicts all blocks at once: use 0, or block_context=noisy"
        raise InputError("CONFIG", "config", "loss.cycle_latent_weight", message)
    if loss.cycle_update == "decoder_only" and not loss.cycle_stop_grad_latent:
        message = "decoder_only holds the encoder still, and without the stop the gradient of z' moves it; set one of them"
        raise InputError("CONFIG", "config", "loss.cycle_stop_grad_latent", message)
    if loss.prior_type == "diffusion" and not config.training.cfg_dropout_prob and "unconditional" not in modes:
        message = "diffusion scores by the unconditional latent denoiser, which nothing trains: training.cfg_dropout_prob above 0"
        raise InputError("CONFIG", "config", "loss.prior_type", message)
    rows = group_rows(config.training.train_batch_size * config.training.gradient_accumulation_steps, config.data.bucket_rows)
    if loss.prior_type in ("moments", "mmd") and min(rows, config.training.train_batch_size) < 2:
        message = f"{loss.prior_type} compares rows in pairs: training.train_batch_size and data.bucket_rows of at least 2"
        raise InputError("CONFIG", "config", "loss.prior_type", message)


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
    if unknown := [name for name in weights if canonical(name) not in OBJECTIVES]:
        raise ValueError(f"mode_weights: {unknown[0]!r} is no mode; valid: {', '.join([*OBJECTIVES, *ALIASES])}")
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
