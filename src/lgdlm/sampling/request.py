"""What a caller hands to a sampler, checked once: identities, latents, texts, lengths.

    rng of a request = Rng(seed, draw, rows): row r is drawn alike whatever stands beside it; `draw` counts repeated draws of one request

Every refusal is an InputError that names the argument, what was expected and what was given.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lgdlm.errors import InputError
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.rng import Rng
from lgdlm.sampling.draw import TokenDraw

Rows = Tensor | Sequence[int] | None


def refusal(field: str, message: str, code: str = "ARGUMENT") -> InputError:
    return InputError(code, "sampling", field, message)


def identities(model: TextLatentDiffusion, count: int, seed: int, rows: Rows, draw: int = 0) -> Rng:
    """The randomness of `count` requests; `rows` int64 [count] are their identities, 0, 1, 2, ... by default."""
    if rows is None:
        keys = torch.arange(count, device=model.device)
    else:
        keys = torch.as_tensor(rows, dtype=torch.long, device=model.device)
    if keys.shape != (count,):
        raise refusal("rows", f"one identity a request is expected: {count}, got shape {list(keys.shape)}")
    return Rng(seed, draw, keys)


def checked_width(model: TextLatentDiffusion, latent_dim: int | None) -> None:
    """`latent_dim`, where a caller insists on one, is the model's."""
    if latent_dim is not None and latent_dim != model.denoiser.latent_dim:
        raise refusal("latent_dim", f"expected {model.denoiser.latent_dim} (the model's), got {latent_dim}", "LATENT_DIM")


def standardised(model: TextLatentDiffusion, latent: Tensor, count: int | None = None) -> Tensor:
    """Raw latents [B, D] or [B, L, D] to standardised [B, L, D] on the model's device; they must be finite."""
    length, width = model.latent_shape
    full = latent[:, None] if latent.dim() == 2 else latent
    if full.dim() != 3 or full.shape[1:] != (length, width):
        raise refusal("latent", f"expected [B, {length}, {width}], got {list(latent.shape)}; project it to the model's width", "LATENT_DIM")
    if count is not None and len(full) != count:
        raise refusal("latent", f"one latent a text is expected: {count}, got {len(full)}")
    if not bool(torch.isfinite(full).all()):
        raise refusal("latent", "holds NaN or infinity; a latent is made of finite numbers", "NAN_LATENT")
    return model.standardise(full.to(model.device))


def checked_text(model: TextLatentDiffusion, tokens: Tensor, attention_mask: Tensor | None, masks: bool = False) -> tuple[Tensor, Tensor]:
    """Token ids int64 [B, N] within the vocabulary (with `masks`: or the mask) and the bool mask of what is seen, all by default."""
    tokens = tokens.to(model.device, torch.long)
    if tokens.dim() != 2:
        raise refusal("input_ids", f"[B, N] is expected, got {list(tokens.shape)}")
    seen = torch.ones_like(tokens, dtype=torch.bool) if attention_mask is None else attention_mask.to(model.device, torch.bool)
    if seen.shape != tokens.shape:
        raise refusal("attention_mask", f"one entry a token is expected: {list(tokens.shape)}, got {list(seen.shape)}")
    room = model.denoiser.max_length
    if room is not None and tokens.shape[1] > room:
        raise refusal("input_ids", f"rows of at most {room} tokens (model.max_seq_len) are expected, got {tokens.shape[1]}", "TOO_LONG")
    if not bool(seen.any(dim=1).all()):
        raise refusal("input_ids", f"row {int((~seen.any(dim=1)).nonzero()[0])} has no token", "EMPTY_TEXT")
    largest = model.mask_id if masks else model.mask_id - 1
    wrong = seen & ((tokens < 0) | (tokens > largest))
    if bool(wrong.any()):
        raise refusal("input_ids", f"id {int(tokens[wrong][0])} is outside the vocabulary of {model.mask_id}")
    return torch.where(seen, tokens, model.eos_id), seen


def lengths(
    model: TextLatentDiffusion,
    latent: Tensor,
    t_latent: Tensor,
    rng: Rng,
    temperature: float,
    seq_len: int | None,
    length: Tensor | int | None,
) -> Tensor:
    """Tokens of each text, int64 [B]: the caller's, or drawn from p(length | latent side); the likeliest at temperature 0.

    A model without a length head ends its texts with EOS, so the caller says how large the canvas is.
    """
    if seq_len is not None and length is not None:
        raise refusal("seq_len", "seq_len (one for all) and length (one a text) exclude each other")
    given = seq_len if seq_len is not None else length
    if given is not None:
        wanted = torch.as_tensor(given, dtype=torch.long, device=model.device).expand(len(latent))
        longest = model.longest
        if int(wanted.min()) < 1 or (longest is not None and int(wanted.max()) > longest):
            bounds = "at least 1 token is" if longest is None else f"1 to {longest} tokens are"
            least, most = int(wanted.min()), int(wanted.max())
            raise refusal("seq_len", f"{bounds} expected, got {least}" + (f" to {most}" if most > least else ""))
        return wanted
    if model.length is None:
        raise refusal("seq_len", "this model ends its texts with EOS: say how many tokens there is room for")
    return 1 + TokenDraw(temperature)(model.length(latent, t_latent), rng.uniform("length draw"))


def canvas(model: TextLatentDiffusion, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Masks wherever a text has room, int64 [B, N], and where that is, bool [B, N]."""
    seen = torch.arange(int(sizes.max()), device=sizes.device) < sizes[:, None]
    return torch.where(seen, model.mask_id, model.eos_id), seen
