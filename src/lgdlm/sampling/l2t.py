"""Latent to text: the latent's clock stands at 0, the text's runs from 1 to 0.

n ~ p(n | z),   y ~ p(y | n, z)
"""

from __future__ import annotations

from torch import Tensor

from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.sampling.block import reverse_text
from lgdlm.sampling.clock import descend, hold
from lgdlm.sampling.decode import TextSamples, finished
from lgdlm.sampling.draw import TokenDraw
from lgdlm.sampling.guidance import answering
from lgdlm.sampling.request import Rows, canvas, identities, lengths, standardised
from lgdlm.sampling.reverse import Callback, Steering


def sample_text_from_latent(
    model: TextLatentDiffusion,
    latent: Tensor,
    seq_len: int | None = None,
    num_steps: int = 32,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    guidance_scale: float = 1.0,
    order: str = "ancestral",
    seed: int = 0,
    rows: Rows = None,
    length: Tensor | int | None = None,
    remask: float = 0.0,
    rounding: str = "logits",
    text_sampler: str = "ddim",
    callback: Callback | None = None,
    draw: int = 0,
) -> TextSamples:
    """Texts for raw latents [B, D] or [B, L, D].

    The length is drawn from p(length | latent) unless the caller fixes it: `seq_len` one for all, `length` int64 [B] one a text; a model
    that ends its texts with EOS needs `seq_len` as the room there is. `temperature`, `top_k`, `top_p`: see `TokenDraw`; `order`: a key of
    `REVEAL`; `guidance_scale`, `remask`, `rounding`, `text_sampler`, `callback`: see `Steering`. Row r's text depends on
    (seed, rows[r], draw) and its latent alone.
    Raises InputError for latents of another width (LATENT_DIM), non-finite ones (NAN_LATENT) and arguments out of range.
    """
    steering = Steering(
        TokenDraw(temperature, top_k, top_p), order, guidance_scale=guidance_scale, remask=remask, callback=callback,
        rounding=rounding, text_sampler=text_sampler,
    )  # fmt: skip
    condition = standardised(model, latent)
    count = len(condition)
    rng = identities(model, count, seed, rows, draw)
    with answering(model):
        sizes = lengths(model, condition, condition.new_zeros(count), rng, temperature, seq_len, length)
    text, seen = canvas(model, sizes)
    paths = descend(num_steps, count, device=model.device), hold(num_steps, count, device=model.device)
    tokens, _ = reverse_text(model, text, condition, seen, *paths, rng, steering)
    return finished(model, tokens, seen, model.unstandardise(condition))
