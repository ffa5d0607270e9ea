"""R_prior: latents that are read from texts should be distributed as the data's.

    moments     |E f(a) - E f(z)|^2 / D,   f(x) = (x, x^2 / sqrt 2) in each dimension
    mmd         |E k(a, .) - E k(z, .)|^2 in the space of the kernel k(x, y) = mean over C of C / (C + |x - y|^2)
    diffusion   E_t |v(a_t, t, no text) - target|^2: how likely `a` is under the model's own unconditional latent denoiser, held still

`a` is a *sampled* latent (`sampled_latent`): only those have the data's distribution where the encoder is perfect. Means of p(z | y) are
narrower, and pulling them to the prior would teach a wrong encoder. Both distances compare a batch with its own data, a pair of rows
at a time, and leave out a row's pair with itself: they are 0 in expectation at the optimum whatever the batch size. The last is a cross
entropy, without the entropy that would make it a divergence: it also pulls towards the middle, so its weight has to be small.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lgdlm.diffusion.times import Uniform
from lgdlm.models.denoiser import NoisyPair
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.objectives.frozen import frozen
from lgdlm.rng import Rng

WIDTHS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # of the kernels, times the squared distance 2 D of two standardised latents

# (model, read latents a, the data's z, which positions are text, rng) -> one value a row; none where a row has nothing to compare with
PriorTerm = Callable[[TextLatentDiffusion, Tensor, Tensor, Tensor, Rng], Tensor]


def _without_self(pairs: Tensor) -> Tensor:
    """Mean of each row of [B, B] over the other rows, [B]; of a single row there is none, [0]."""
    count = len(pairs)
    if count < 2:
        return pairs.new_zeros(0)
    return (pairs.sum(dim=1) - pairs.diagonal()) / (count - 1)


def moments(model: TextLatentDiffusion, read: Tensor, data: Tensor, seen: Tensor, rng: Rng) -> Tensor:
    """[B, L, D] twice to [B] (or [0] for a single row)."""
    a, z = read.flatten(1).float(), data.flatten(1).float()
    difference = torch.cat([a - z, (a.square() - z.square()) / 2**0.5], dim=1)
    return _without_self(difference @ difference.T) / a.shape[1]


def mmd(model: TextLatentDiffusion, read: Tensor, data: Tensor, seen: Tensor, rng: Rng) -> Tensor:
    """[B, L, D] twice to [B] (or [0] for a single row)."""
    a, z = read.flatten(1).float(), data.flatten(1).float()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        squares = (x[:, None] - y[None]).square().sum(dim=2)
        return torch.stack([c / (c + squares) for c in (2 * x.shape[1] * w for w in WIDTHS)]).mean(dim=0)

    across = kernel(a, z)
    return _without_self(kernel(a, a) - across - across.T + kernel(z, z))


def diffusion(model: TextLatentDiffusion, read: Tensor, data: Tensor, seen: Tensor, rng: Rng) -> Tensor:
    """[B, L, D] to [B]. The text is dropped as condition dropout drops it: nothing known of as many tokens as it has."""
    t, process = Uniform()(rng, "latent"), model.latent_process
    noised = process.noise(read, t, rng)
    pair = NoisyPair(model.unknown_text(seen, rng), torch.ones_like(t), noised, t, seen, torch.zeros_like(seen))
    with frozen(model.parameters()):
        return process.loss(model(pair).latent, read, noised, t)


PRIORS: dict[str, PriorTerm] = {"moments": moments, "mmd": mmd, "diffusion": diffusion}
