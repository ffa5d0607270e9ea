"""Where a fresh posterior begins: means in closed form from a few thousand training texts, before step 1.

    mu(y) = W f(y) + b,   f: what the posterior's last hidden layer says, at its random start
    behind Stage I   W, b = ridge regression of f on E[z | y], the latents that the Stage I model itself reads from the texts
    otherwise        W, b = the leading principal components of f, whitened
    a correction     W, b = 0 (model.latent_encoder_start=reading): mu is E[z | y] itself

So the decoder of Stage I understands the first z it is given, and without a Stage I texts lie apart from the start: a decoder that is shown
one and the same z for every text learns to ignore it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lgdlm.data.loader import Loader
from lgdlm.models.joint import TextLatentDiffusion

TEXTS = 4096
LEAST_READ = 0.1  # of a latent's variance, which is 1
PENALTY = 1e-3  # of the ridge, in units of a feature's variance
LEAST_VARIANCE = 1e-6  # of a component, relative to the largest


@torch.no_grad()
def start_posterior(model: TextLatentDiffusion, loader: Loader, behind_stage1: bool) -> None:
    """Set the mean head of `model.posterior` from the texts of the loader's first steps. The model may be left in `eval` mode.

    `behind_stage1`: the weights are a Stage I checkpoint's. One that has hardly learned to read latents, or predicts `epsilon`, which
    says nothing at t = 1, takes the components too.
    """
    assert model.posterior is not None
    if model.corrects_reading:
        model.posterior.mean.weight.zero_()
        model.posterior.mean.bias.zero_()
        return
    process = model.latent_process
    reads = behind_stage1 and process.predicts != "epsilon"
    model.eval()
    features, read = [], []
    hook = model.posterior.mean.register_forward_hook(lambda layer, inputs, answer: features.append(inputs[0].double()))
    try:
        for step in range(1, min(loader.steps_per_epoch, -(-TEXTS // loader.batch_size)) + 1):
            for batch in (b.to(model.device) for b in loader.step(step).batches):
                pair = model.clean_text(batch.input_ids, batch.text_mask)
                answer = model(pair)
                model.posterior(answer.hidden, pair.attention_mask)
                if reads:
                    read.append(process.to_x0(answer.latent.float(), pair.latent, pair.t_latent).flatten(1).double())
    finally:
        hook.remove()
    x = torch.cat(features)
    if reads and float(torch.cat(read).var(dim=0).mean()) > LEAST_READ:
        weight, bias = _regression(x, torch.cat(read))
    else:
        weight, bias = _components(x, len(model.posterior.mean.bias))
    model.posterior.mean.weight.copy_(weight)
    model.posterior.mean.bias.copy_(bias)


def _regression(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Ridge of y [n, D] on x [n, H]: W [D, H] and b [D]."""
    centre, middle = x.mean(dim=0), y.mean(dim=0)
    gram = (x - centre).T @ (x - centre)
    gram.diagonal().add_(PENALTY * gram.diagonal().mean())
    weight = torch.linalg.solve(gram, (x - centre).T @ (y - middle)).T
    return weight, middle - weight @ centre


def _components(x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The first `size` principal components of x [n, H] at mean 0 and variance 1; what x has no room for stays 0."""
    centre = x.mean(dim=0)
    variance, axes = torch.linalg.eigh((x - centre).T @ (x - centre) / len(x))
    variance, axes = variance.flip(0)[:size], axes.flip(1)[:, :size]
    scale = torch.where(variance > LEAST_VARIANCE * variance[0], variance.clamp_min(0).rsqrt(), 0.0)
    weight = x.new_zeros(size, x.shape[1])
    weight[: len(scale)] = (axes * scale).T
    return weight, -weight @ centre
