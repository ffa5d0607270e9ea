"""From configuration to model: the only place that knows which key goes to which constructor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from inspect import signature

import torch
from torch import Tensor

from lgdlm.config import Model
from lgdlm.diffusion.embedding import EmbeddingDiffusion
from lgdlm.diffusion.gaussian import GaussianDiffusion
from lgdlm.diffusion.masked import MaskedDiffusion
from lgdlm.diffusion.schedule import LATENT_SCHEDULES, LatentSchedule, Linear, LogLinear
from lgdlm.errors import InputError
from lgdlm.models.denoiser import Denoiser
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.models.length import LengthHead
from lgdlm.models.linear_reading import LinearReading
from lgdlm.models.mmdit import MMDiTDenoiser
from lgdlm.models.posterior import TextLatentEncoder
from lgdlm.models.prior import Prior, build_prior
from lgdlm.models.rwkv_denoiser import RWKVDenoiser
from lgdlm.models.transformer import TransformerDenoiser

DENOISERS: dict[str, type[Denoiser]] = {"mmdit": MMDiTDenoiser, "rwkv7": RWKVDenoiser, "transformer": TransformerDenoiser}


def build_denoiser(model: Model, vocab_size: int) -> Denoiser:
    """The denoiser that `model.denoiser` names, given the keys of `model` that its constructor has.

    Raises InputError for values that do not fit together, and for a key that was set and that this network has no use for.
    """
    kind = DENOISERS[model.denoiser]
    wanted = signature(kind).parameters
    for name in idle_keys(model):
        message = f"model={model.denoiser} has no use for it, got {getattr(model, name)!r}; leave it out"
        raise InputError("CONFIG", "config", f"model.{name}", message)
    try:
        return kind(vocab_size=vocab_size, **{name: value for name, value in asdict(model).items() if name in wanted})
    except ValueError as problem:
        raise InputError("CONFIG", "config", "model", f"{problem}") from problem


def idle_keys(model: Model) -> list[str]:
    """Keys of a network, moved from their defaults, that the network chosen does not have.

    `max_seq_len` belongs to data and length head too. RWKV counts heads by their size: a number that says the same is no contradiction.
    """
    of_any = {name for kind in DENOISERS.values() for name in signature(kind).parameters} - {"max_seq_len"}
    unused = of_any - set(signature(DENOISERS[model.denoiser]).parameters)
    if model.n_heads * getattr(model, "head_size", 0) == model.hidden_size:
        unused.discard("n_heads")
    plain = type(model)()
    return sorted(name for name, value in asdict(model).items() if name in unused and value != getattr(plain, name))


def build_schedule(model: Model, name: str | None = None) -> LatentSchedule:
    """The latent's schedule, or the one of that name; the linear one takes its betas per 1/latent_timesteps of time."""
    name = name or model.latent_beta_schedule
    if name == "linear":
        return Linear(model.latent_beta_min, model.latent_beta_max, model.latent_timesteps)
    return LATENT_SCHEDULES[name]()


def build_text_process(model: Model, denoiser: Denoiser, weighting: str) -> MaskedDiffusion | EmbeddingDiffusion:
    """How texts are noised, with the weight of its loss. Raises InputError for a weight that the process does not have."""
    try:
        if model.text_process == "masked":
            return MaskedDiffusion(denoiser.vocab_size, LogLinear(model.t_eps), weighting)
        schedule = build_schedule(model, model.text_beta_schedule)
        return EmbeddingDiffusion(denoiser.vocab_size, denoiser.embedding.rows, schedule, weighting, model.self_conditioning_prob)
    except ValueError as problem:
        raise InputError("CONFIG", "config", "loss.text_weighting", f"{problem}") from problem


def build_model(
    model: Model,
    *,
    vocab_size: int,
    eos_id: int,
    latent_mean: Tensor,
    latent_std: Tensor,
    text_weighting: str = "elbo",
    identity: Mapping[str, object] | None = None,
    seed: int = 0,
) -> TextLatentDiffusion:
    """A fresh model; its initial weights are a function of (config, seed) alone.

    Raises InputError when the data's latent width is not `model.latent_dim`.
    """
    if latent_mean.shape != (model.latent_dim,):
        raise InputError(
            "LATENT_DIM", "manifest.json", "latent_dim",
            f"expected {model.latent_dim} (model.latent_dim), got {latent_mean.numel()}: run `lgdlm prepare latent_dim={model.latent_dim}`"
            f" or set model.latent_dim={latent_mean.numel()}",
        )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % (1 << 63))
        denoiser = build_denoiser(model, vocab_size)
        length = LengthHead(model.latent_len, model.latent_dim, model.max_seq_len) if model.length == "predicted" else None
        reading = LinearReading(vocab_size, model.latent_len, model.latent_dim) if model.latent_skip == "linear" else None
        posterior, prior = build_latent_variable(model, denoiser.hidden_size)
    return TextLatentDiffusion(
        denoiser,
        build_text_process(model, denoiser, text_weighting),
        GaussianDiffusion(build_schedule(model), model.latent_parameterization),
        length,
        latent_mean,
        latent_std,
        eos_id,
        identity,
        reading,
        posterior,
        prior,
        model.latent_encoder_start == "reading",
    )


def build_latent_variable(model: Model, hidden_size: int) -> tuple[TextLatentEncoder, Prior] | tuple[None, None]:
    """Stage II's posterior and prior; neither where `model.latent_encoder_type` is none."""
    if model.latent_encoder_type == "none":
        return None, None
    size = model.latent_len * model.latent_dim
    return TextLatentEncoder(hidden_size, size, model.dropout, model.latent_encoder_type), build_prior(model.latent_prior_type, size)
