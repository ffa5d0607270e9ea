"""The one reverse loop: both modalities move along their clock paths, from noise or half-way back to clean.

    for each step (t_text -> s_text, t_latent -> s_latent):
        positions to reveal <- process.reveal                     before any logits, where the order allows it
        logits there, x0    <- denoiser(text, t_text, latent, t_latent), guided
        tokens              <- inverse CDF of the logits          revealed at those positions
        latent              <- sampler.step(latent, x0, t_latent, s_latent)

Latent to text, text to latent, joint sampling, infilling and editing differ in their paths and starting states only: a path that
stands at 0 is a condition. Rows that reveal nothing on a step, while no latent moves, are not sent through the network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lgdlm.models.denoiser import NoisyPair
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.rng import Rng
from lgdlm.sampling.draw import TokenDraw
from lgdlm.sampling.guidance import answering, ask
from lgdlm.sampling.request import refusal
from lgdlm.sampling.samplers import REVEAL, SAMPLERS, most_certain

if TYPE_CHECKING:
    from lgdlm.sampling.block_past import Past


@dataclass(frozen=True)
class Moment:
    """What a callback sees: the state after `step` steps (0: the start). Latents are in the encoder's units.

    t_text, t_latent float32 [B]; text int64 [B, N] (masks included); latent [B, L, D]; text_estimate int64 [B, N]: the whole text as drawn
    at this step; latent_estimate [B, L, D]: the clean latent predicted at this step, None where the latent does not move.
    """

    step: int
    t_text: Tensor
    t_latent: Tensor
    text: Tensor
    latent: Tensor
    text_estimate: Tensor
    latent_estimate: Tensor | None


Callback = Callable[[Moment], None]


@dataclass(frozen=True)
class Steering:
    """How a reverse process chooses: token draws, order of revealing, latent sampler, guidance, remasking.

    `remask` in [0, 1]: strength at which a revealed token may be masked again (0: never). With a `callback` every masked position is
    asked for at every step, so that it can show the whole estimate: the sample is the same, the cost is not. In block diffusion `cached`
    False reads the text before a block again at every step: the same sample at a cost that grows with the text.
    """

    draw: TokenDraw = field(default_factory=TokenDraw)
    order: str = "ancestral"
    sampler: str = "ddim"
    guidance_scale: float = 1.0
    remask: float = 0.0
    callback: Callback | None = None
    cached: bool = True

    def __post_init__(self) -> None:
        if self.order not in REVEAL:
            raise refusal("order", f"{self.order!r} is not one of {', '.join(REVEAL)}")
        if self.sampler not in SAMPLERS:
            raise refusal("sampler", f"{self.sampler!r} is not one of {', '.join(SAMPLERS)}")
        if not 0 <= self.remask <= 1:
            raise refusal("remask", f"0 to 1 is expected, got {self.remask}")
        if not 0 <= self.guidance_scale < float("inf"):
            raise refusal("guidance_scale", f"a finite number of at least 0 is expected, got {self.guidance_scale}")


def reverse(
    model: TextLatentDiffusion,
    text: Tensor,
    latent: Tensor,
    attention_mask: Tensor,
    text_path: Tensor,
    latent_path: Tensor,
    rng: Rng,
    steering: Steering | None = None,
    editable: Tensor | None = None,
    past: Past | None = None,
) -> tuple[Tensor, Tensor]:
    """Run both clocks down their paths; returns text int64 [B, N] and standardised latent [B, L, D] at the end.

    text            int64 [B, N]             with masks where tokens are wanted
    latent          float [B, L, D]          standardised, noised as far as `latent_path[0]` says
    attention_mask  bool [B, N]              positions the network sees
    *_path          float32 [steps + 1, B]   see `lgdlm.sampling.clock`
    rng             Rng of the B rows        step i draws from `rng.fold(i)`
    editable        bool [B, N]              positions that may change; None: all that `attention_mask` allows
    past                                     what stands before the text, where it is one block of a longer one (`lgdlm.sampling.block`)
    """
    assert text_path.shape == latent_path.shape
    assert text_path.shape[1] == len(text) == len(latent) == len(rng.rows)
    steering = steering or Steering()
    process = model.text_process
    editable = attention_mask if editable is None else editable & attention_mask
    certainty = REVEAL[steering.order]
    mover = SAMPLERS[steering.sampler](model.latent_process)
    masks_at_start = process.masked(text, editable).sum(dim=1)
    _show(steering, model, 0, text_path, latent_path, text, latent, text, None)
    with answering(model):
        for i, (t, s, t_latent, s_latent) in enumerate(zip(text_path, text_path[1:], latent_path, latent_path[1:], strict=False)):
            now = rng.fold(i)
            masked = process.masked(text, editable)
            hidden = process.hide(text, t, s, now, editable, steering.remask) if steering.remask else torch.zeros_like(masked)
            if certainty is None:
                chosen = process.reveal(text, t, s, now, editable, steering.remask)
                wanted = chosen
            else:
                # as many masks stay as the schedule has at s: round(masks at the start * (1 - alpha(s)) / (1 - alpha(start)))
                share = process.schedule.reveal_share(text_path[0].double(), s.double())
                stay = (masks_at_start * (1 - share)).round().long()
                count = masked.sum(dim=1) + hidden.sum(dim=1) - stay
                wanted = masked & (count > 0)[:, None]
            if steering.callback is not None:
                wanted = masked
            moves = s_latent < t_latent
            assert bool(moves.all()) or not bool(moves.any()), "a sampler that remembers its last step needs all latents to move together"
            index = (wanted.any(dim=1) | moves).nonzero()[:, 0]
            estimate, x0 = text, None
            if len(index):
                at, mine = wanted[index], now.select(index)
                pair = NoisyPair(text[index], t[index], latent[index], t_latent[index], attention_mask[index], at)
                before = past if past is None or len(index) == len(text) else past.rows(index)
                answers = {"text": bool(at.any()), "latent": bool(moves.any())}
                logits, x0 = ask(model, pair, mine, steering.guidance_scale, **answers, past=before)
                tokens = steering.draw(logits, mine.uniform("token draw", text.shape[1])[at])
                estimate = text.masked_scatter(wanted, tokens)
                if certainty is not None:
                    score = torch.full(text.shape, -torch.inf, device=text.device).masked_scatter(wanted, certainty(logits, tokens))
                    chosen = most_certain(score, count)
                text = torch.where(chosen, estimate, text)
                if x0 is not None:
                    latent = mover.step(latent, x0, t_latent, s_latent, now)
            text = text.masked_fill(hidden, process.mask_id)
            _show(steering, model, i + 1, text_path, latent_path, text, latent, estimate, x0)
    assert not bool((process.masked(text, editable) & (text_path[-1] <= 0)[:, None]).any()), "a reverse process leaves nothing masked"
    return text, latent


def _show(
    steering: Steering,
    model: TextLatentDiffusion,
    step: int,
    text_path: Tensor,
    latent_path: Tensor,
    text: Tensor,
    latent: Tensor,
    text_estimate: Tensor,
    x0: Tensor | None,
) -> None:
    if steering.callback is not None:
        latent_estimate = None if x0 is None else model.unstandardise(x0)
        state = text_path[step], latent_path[step], text, model.unstandardise(latent)
        steering.callback(Moment(step, *state, text_estimate, latent_estimate))
