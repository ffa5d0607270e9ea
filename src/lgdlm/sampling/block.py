"""Texts of a block diffusion: the reverse loop on one block after another, each with the finished text before it.

    for each block j:   y_j <- reverse(masks; y_0 .. y_{j-1}, z)        the clock runs from the block's masked share down to 0

A block costs the same wherever it stands, and nothing but its memory is carried on: a text of any length needs constant room
beside its own tokens. The latent stands still while text is written; where both are wanted it is drawn first, with the text unknown.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lgdlm.diffusion.masked import MaskedDiffusion
from lgdlm.models.denoiser import NoisyPair
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.models.walk import in_place, ordered, padding_last
from lgdlm.rng import Rng
from lgdlm.sampling.block_past import Kept, Past, Reread
from lgdlm.sampling.guidance import answering
from lgdlm.sampling.reverse import Callback, Moment, Steering, reverse


def reverse_text(
    model: TextLatentDiffusion,
    text: Tensor,
    latent: Tensor,
    attention_mask: Tensor,
    text_path: Tensor,
    latent_path: Tensor,
    rng: Rng,
    steering: Steering | None = None,
    editable: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`reverse` with its arguments and answers, block after block where the model's denoiser is a block diffusion.

    There the text's path is every block's, scaled to start at the share of the block that is masked, and a latent that moves runs down
    its path before the first block. In eos mode nothing is drawn behind the block that holds a row's first EOS: it becomes filling.
    """
    if model.denoiser.block_diffusion is None:
        return reverse(model, text, latent, attention_mask, text_path, latent_path, rng, steering, editable)
    steering = steering or Steering()
    editable = attention_mask if editable is None else editable & attention_mask
    steps = 0
    if bool((latent_path[-1] < latent_path[0]).any()):
        unknown, nothing = torch.ones_like(text_path), torch.zeros_like(attention_mask)
        _, latent = reverse(model, text, latent, attention_mask, unknown, latent_path, rng, steering, nothing)
        steps = len(latent_path) - 1
    order, _ = padding_last(attention_mask)
    text, seen, editable = (ordered(x, order) for x in (text, attention_mask, editable))
    text = _blocks(model, text, latent, seen, text_path, latent_path[-1], rng, steering, editable, order, steps)
    return in_place(text, order), latent


def _blocks(
    model: TextLatentDiffusion,
    text: Tensor,
    latent: Tensor,
    seen: Tensor,
    text_path: Tensor,
    t_latent: Tensor,
    rng: Rng,
    steering: Steering,
    editable: Tensor,
    order: Tensor | None,
    steps: int,
) -> Tensor:
    """Every block in turn, for texts whose padding stands last; `steps` have been shown before."""
    size, process = model.denoiser.block_diffusion, model.text_process
    assert size is not None
    assert isinstance(process, MaskedDiffusion), "blocks are of masked text"
    guided = steering.guidance_scale != 1 and bool((t_latent < 1).any())
    text, live = text.clone(), torch.arange(len(text), device=text.device)
    past: Past = Kept(rng) if steering.cached else Reread(rng, text[:, :0])
    clean = torch.zeros_like(t_latent)
    finished = NoisyPair(text[:, :0], clean, latent, t_latent, seen[:, :0])
    for number, start in enumerate(range(0, text.shape[1], size)):
        cut = slice(start, start + size)
        going = seen[live, start]
        if model.length is None and number:
            going = going & ~((finished.text == model.eos_id) & finished.attention_mask).any(dim=1)
        if not bool(going.any()):
            break
        with answering(model):
            past = past.then(model, finished, guided)
        if not bool(going.all()):
            past, live = past.rows(going.nonzero()[:, 0]), live[going]
        block, mask, free = text[live, cut], seen[live, cut], editable[live, cut]
        share = process.masked(block, free).sum(dim=1) / mask.sum(dim=1)
        path = torch.where(share > 0, text_path[:, live] / text_path[0, live] * share, 0.0)
        still = t_latent[live].expand_as(path)
        shown = steering
        if steering.callback is not None:
            shown = replace(steering, callback=_on_canvas(steering.callback, model, text, latent, t_latent, live, cut, order, steps))
        block, _ = reverse(model, block, latent[live], mask, path, still, rng.select(live).fold(number), shown, free, past)
        text[live, cut] = block
        steps += len(path) - 1
        finished = NoisyPair(block, clean[live], latent[live], t_latent[live], mask)
    return text.masked_fill(process.masked(text, editable), model.eos_id)


def _on_canvas(
    callback: Callback,
    model: TextLatentDiffusion,
    text: Tensor,
    latent: Tensor,
    t_latent: Tensor,
    live: Tensor,
    cut: slice,
    order: Tensor | None,
    steps: int,
) -> Callback:
    """The callback that sees whole texts, where the loop knows one block of the rows `live`. The clock shown is the block's."""
    raw = model.unstandardise(latent)

    def placed(block: Tensor) -> Tensor:
        whole = text.clone()
        whole[live, cut] = block
        return in_place(whole, order)

    def show(moment: Moment) -> None:
        if moment.step or not steps:
            t_text = torch.zeros_like(t_latent).index_copy(0, live, moment.t_text)
            callback(Moment(steps + moment.step, t_text, t_latent, placed(moment.text), raw, placed(moment.text_estimate), None))

    return show
