"""The clean data of one step: `Batch`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Token ids with their latents.

    input_ids       int64 [B, N]
    attention_mask  bool  [B, N]   True at real positions; where it is False, nothing is read, predicted or counted
    latent          float [B, L, D] raw (not yet standardised), or None where the objective brings its own
    rows            int64 [B]      position in the global batch of this step: the key of the row's randomness
    sample_ids      B names, for the ledger and for the guard's reports
    fill_mask       bool  [B, N]   True at the EOS filling behind the first EOS (length=eos), or None where there is none. Filling is
                                   real to the network, which must not see the length, and never counted or reported as text
    """

    input_ids: Tensor
    attention_mask: Tensor
    latent: Tensor | None
    rows: Tensor
    sample_ids: tuple[str, ...] = field(default=())
    fill_mask: Tensor | None = None

    def __post_init__(self) -> None:
        assert self.input_ids.shape == self.attention_mask.shape, "one mask entry per token"
        assert self.attention_mask.dtype == torch.bool
        assert self.latent is None or self.latent.dim() == 3, "a latent is [B, L, D]"

    @property
    def size(self) -> int:
        return self.input_ids.shape[0]

    @property
    def text_mask(self) -> Tensor:
        """bool [B, N]: the positions that count as text, the first EOS included where there is one."""
        return self.attention_mask if self.fill_mask is None else self.attention_mask & ~self.fill_mask

    @property
    def lengths(self) -> Tensor:
        """Text tokens per row, int64 [B]."""
        return self.text_mask.sum(dim=1)

    @property
    def tokens(self) -> int:
        """Text tokens in the batch."""
        return int(self.text_mask.sum())

    def to(self, device: torch.device | str) -> Batch:
        latent = None if self.latent is None else self.latent.to(device)
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            attention_mask=self.attention_mask.to(device),
            latent=latent,
            rows=self.rows.to(device),
            fill_mask=None if self.fill_mask is None else self.fill_mask.to(device),
        )
