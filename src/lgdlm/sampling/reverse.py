"""The one reverse loop: both modalities move along their clock paths, from noise or half-way back to clean.

    for each step (t_text -> s_text, t_latent -> s_latent):
        positions to draw   <- text state's plan                  before any logits, where the order allows it
        logits there, x0    <- denoiser(text, t_text, latent, t_latent), guided
        text                <- text state's take: tokens drawn and revealed, or rows moved (`Unmasking`, `Rounding`)
        latent              <- sampler.step(latent, x0, t_latent, s_latent)

Latent to text, text to latent, joint sampling, infilling and editing differ in their paths and starting states only: a path that
stands at 0 is a condition. Rows that reveal nothing on a step, while no latent moves, are not sent through the network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from lgdlm.diffusion.masked import MaskedDiffusion
from lgdlm.models.denoiser import NoisyPair
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.rng import Rng
from lgdlm.sampling.draw import TokenDraw
from lgdlm.sampling.guidance import answering, ask
from lgdlm.sampling.request import refusal
from lgdlm.sampling.rounding import ROUNDINGS, Rounding
from lgdlm.sampling.samplers import REVEAL, SAMPLERS
from lgdlm.sampling.text_state import TextState
from lgdlm.sampling.unmasking import Unmasking

if TYPE_CHECKING:
    from lgdlm.sampling.block_past import Past


@dataclass(frozen=True)
class Moment:
    """What a callback sees: the state after `step` steps (0: the start). Latents are in the encoder's units.

    t_text, t_latent float32 [B]; text int64 [B, N] (masks included; rows on their way as their nearest tokens); latent [B, L, D];
    text_estimate int64 [B, N]: the whole text as drawn at this step; latent_estimate [B, L, D]: the clean latent predicted at this step,
    None where the latent does not move.
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

    `rounding` and `text_sampler`, a key of `SAMPLERS`, are for embedding diffusion, which has neither order nor remasking: see `Rounding`.
    """

    draw: TokenDraw = field(default_factory=TokenDraw)
    order: str = "ancestral"
    sampler: str = "ddim"
    guidance_scale: float = 1.0
    remask: float = 0.0
    callback: Callback | None = None
    cached: bool = True
    rounding: str = "logits"
    text_sampler: str = "ddim"

    def __post_init__(self) -> None:
        if self.order not in REVEAL:
            raise refusal("order", f"{self.order!r} is not one of {', '.join(REVEAL)}")
        for name, sampler in (("sampler", self.sampler), ("text_sampler", self.text_sampler)):
            if sampler not in SAMPLERS:
                raise refusal(name, f"{sampler!r} is not one of {', '.join(SAMPLERS)}")
        if self.rounding not in ROUNDINGS:
            raise refusal("rounding", f"{self.rounding!r} is not one of {', '.join(ROUNDINGS)}")
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

    text            int64 [B, N]             with masks where tokens are wanted; or rows float [B, N, E] noised as `text_path[0]` says
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
    editable = attention_mask if editable is None else editable & attention_mask
    state = text_state(model, text, editable, text_path[0], rng, steering)
    mover = SAMPLERS[steering.sampler](model.latent_process)
    _show(steering, model, 0, text_path, latent_path, state, latent, None)
    with answering(model):
        for i, (t, s, t_latent, s_latent) in enumerate(zip(text_path, text_path[1:], latent_path, latent_path[1:], strict=False)):
            now = rng.fold(i)
            wanted, asks = state.plan(t, s, now)
            moves = s_latent < t_latent
            assert bool(moves.all()) or not bool(moves.any()), "a sampler that remembers its last step needs all latents to move together"
            index, x0 = (asks | moves).nonzero()[:, 0], None
            if len(index):
                mine, estimate = now.select(index), state.given_estimate
                pair = NoisyPair(state.shown[index], t[index], latent[index], t_latent[index], attention_mask[index], wanted[index])
                pair = pair if estimate is None else pair.at(estimate=estimate[index])
                before = past if past is None or len(index) == len(latent) else past.rows(index)
                answers = {"text": bool(asks[index].any()), "latent": bool(moves.any())}
                answer = ask(model, pair, mine, steering.guidance_scale, **answers, past=before)
                x0 = answer.latent
                if answers["text"]:
                    state.take(answer, index, wanted, mine)
                if x0 is not None:
                    latent = mover.step(latent, x0, t_latent, s_latent, now)
            state.settle()
            _show(steering, model, i + 1, text_path, latent_path, state, latent, x0)
    text = state.finished()
    arrived = (text == model.mask_id) & editable & (text_path[-1] <= 0)[:, None]
    assert not bool(arrived.any()), "a reverse process leaves nothing masked"
    return text, latent


def text_state(model: TextLatentDiffusion, text: Tensor, editable: Tensor, start: Tensor, rng: Rng, steering: Steering) -> TextState:
    """The state that moves this model's texts from the clock `start` [B]. Raises InputError for steering that it has no use for."""
    process, whole = model.text_process, steering.callback is not None
    if isinstance(process, MaskedDiffusion):
        for field_, value, plain in (("rounding", steering.rounding, "logits"), ("text_sampler", steering.text_sampler, "ddim")):
            if value != plain:
                raise refusal(field_, f"{value} is for embedding diffusion, and this model masks its texts: leave it out")
        return Unmasking(process, text, editable, start, steering.draw, steering.order, steering.remask, whole)
    if steering.order != "ancestral" or steering.remask:
        raise refusal("order" if steering.order != "ancestral" else "remask", "embedding diffusion masks nothing: leave it out")
    return Rounding(process, text, editable, start, rng, steering.draw, steering.rounding, steering.text_sampler, whole)


def _show(
    steering: Steering,
    model: TextLatentDiffusion,
    step: int,
    text_path: Tensor,
    latent_path: Tensor,
    text: TextState,
    latent: Tensor,
    x0: Tensor | None,
) -> None:
    if steering.callback is not None:
        latent_estimate = None if x0 is None else model.unstandardise(x0)
        state = text_path[step], latent_path[step], text.tokens, model.unstandardise(latent)
        steering.callback(Moment(step, *state, text.estimate, latent_estimate))
