"""Text without a source: z from the prior of Stage II, then its text. And the other way: a text's own latent.

    z ~ p(z),   n ~ p(n | z),   y ~ p(y | n, z)                          q(z | y) = N(mu(y), diag exp(logvar(y)))

A Gaussian prior is one draw; a diffusion prior is the reverse loop with no text in sight, at any number of steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.models.posterior import Posterior
from lgdlm.models.prior import LatentPrior
from lgdlm.sampling.clock import descend, hold
from lgdlm.sampling.decode import TextSamples
from lgdlm.sampling.guidance import answering
from lgdlm.sampling.l2t import sample_text_from_latent
from lgdlm.sampling.request import Rows, checked_text, identities, refusal
from lgdlm.sampling.reverse import Steering, reverse


def sample_latent_from_prior(
    model: TextLatentDiffusion, batch_size: int, num_steps: int = 32, sampler: str = "ddim", seed: int = 0, rows: Rows = None
) -> Tensor:
    """`batch_size` latents [B, L, D] of p(z), in the encoder's units. `num_steps` and `sampler` are the diffusion prior's.

    Raises InputError for a model without a prior (NO_PRIOR) and for a batch size below 1 (ARGUMENT).
    """
    prior = model.prior
    if prior is None:
        raise refusal("mode", "this model has no prior: train it with loss.loss_type=stage2_variational, or use mode=joint", "NO_PRIOR")
    if batch_size < 1:
        raise refusal("batch_size", f"at least 1 is expected, got {batch_size}")
    rng = identities(model, batch_size, seed, rows)
    noise = model.latent_process.prior((batch_size, *model.latent_shape), rng)
    if isinstance(prior, LatentPrior):
        with torch.no_grad():
            mu, logvar = (x.view(batch_size, *model.latent_shape) for x in prior(batch_size, model.device))
            return model.unstandardise(mu + (0.5 * logvar).exp() * noise)
    question = model.alone(noise, noise.new_ones(batch_size))
    paths = (
        hold(num_steps, batch_size, 1.0, model.device),
        descend(num_steps, batch_size, model.latent_process.latest_time, model.device),
    )
    nowhere = torch.zeros_like(question.attention_mask)
    steering = Steering(sampler=sampler)
    _, latent = reverse(model, question.text, noise, question.attention_mask, *paths, rng, steering, editable=nowhere)
    return model.unstandardise(latent)


def sample_text_from_prior(
    model: TextLatentDiffusion,
    batch_size: int,
    seq_len: int | None = None,
    num_steps: int = 32,
    sampler: str = "ddim",
    seed: int = 0,
    rows: Rows = None,
    **options: Any,
) -> TextSamples:
    """`batch_size` texts with the latents they came from; `options` are those of `sample_text_from_latent`. Raises as both do."""
    latent = sample_latent_from_prior(model, batch_size, num_steps, sampler, seed, rows)
    return sample_text_from_latent(model, latent, seq_len, num_steps, seed=seed, rows=rows, **options)


def read_posterior(model: TextLatentDiffusion, input_ids: Tensor, attention_mask: Tensor | None = None) -> Posterior:
    """q(z | y) of texts int64 [B, N] in standardised units; `attention_mask` bool [B, N], None: every token is real.

    Raises InputError for a model without a posterior (NO_POSTERIOR), and as every reader of texts (EMPTY_TEXT, ARGUMENT).
    """
    if model.posterior is None:
        raise refusal("mode", "this model has no posterior: its latents come from mode=t2l", "NO_POSTERIOR")
    text, seen = checked_text(model, input_ids, attention_mask)
    with answering(model):
        return model.read(text, seen)[0]
