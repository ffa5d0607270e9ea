"""Masked diffusion of tokens under its old signature: `MaskedDiffusion(tokenizer).sample_zt(ids, t)`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lgdlm.diffusion import masked
from lgdlm.diffusion.schedule import LogLinear
from lgdlm.rng import Rng


class MaskedDiffusion:
    """Each token becomes the mask with probability 1 - alpha(t), alpha(t) = 1 - (1 - t_eps) t.

    The mask is the id one beyond the vocabulary of a tokenizer of ours; one with a mask token of its own (`mask_token_id`) keeps that.
    Raises ValueError for a tokenizer that has neither `mask_token_id` nor `vocab_size`.
    """

    def __init__(self, tokenizer: Any, t_eps: float = 1e-4):
        mask_id = getattr(tokenizer, "mask_token_id", None)
        mask_id = getattr(tokenizer, "vocab_size", None) if mask_id is None else mask_id
        if mask_id is None:
            raise ValueError(f"{type(tokenizer).__name__} has neither mask_token_id nor vocab_size")
        self.mask_id, self.schedule = int(mask_id), LogLinear(t_eps)
        self.process = masked.MaskedDiffusion(self.mask_id, self.schedule)

    def sample_zt(self, ids: Tensor, t: Tensor | float, attention_mask: Tensor | None = None, seed: int | None = None) -> Tensor:
        """int64 [B, N] at times [B] (or one for all) to int64 [B, N] with masks; where `attention_mask` is 0 nothing is masked.

        `seed` None draws from torch's own generator.
        """
        times = torch.as_tensor(t, dtype=torch.float32, device=ids.device).reshape(-1).expand(len(ids))
        chosen = int(torch.randint(1 << 62, ())) if seed is None else seed
        rng = Rng(chosen, 0, torch.arange(len(ids), device=ids.device))
        return self.process.noise(ids, times, rng, None if attention_mask is None else attention_mask.bool())
