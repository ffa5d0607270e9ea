"""Tokens in, logits out: the two ends every denoiser shares.

    e(token) = sqrt(E) E[token] P,  e(mask) = sqrt(E) m          logits = norm(h) P' E^T + b   (tied)   or   norm(h) P' W + b

Rows are small, as a tied head wants them; the factor sqrt(width) lifts them to the size of what the blocks add, which would
otherwise drown which token it was. Rows of published weights are read as they are, and their head is norm and matrix alone
(`scale` 1, `plain`). The mask has a trainable row `m` of its own, so a frozen or borrowed vocabulary can still
be diffused. Logits have one entry per real token: the mask cannot be emitted (the SUBS rule holds by construction).

In embedding diffusion (`sphere`) rows count by their direction, e(v) = sqrt(E) E[v] / |E[v]|, and a text may come as noised rows x_t:

    h = (x_t or e(y)) P + x0_before P''        x0_hat = norm(h) P'        logits = x0_hat . e(v) + b
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgdlm.diffusion.embedding import on_sphere
from lgdlm.models.denoiser import NoisyPair

# The number of masked tokens differs at every step, and the CPU's matrix library compiles and keeps a kernel for every shape it
# meets: rounded up, it meets few, where it otherwise grows by 10 MB a step and spends a tenth of its time compiling.
ROWS_TOGETHER = 64


class TokenEmbedding(nn.Module):
    """`embedding_dim` E below the hidden width H factorises the table; 0 means E = H and no projection. `scale` None: sqrt(E).

    `sphere`: tokens enter as e(v), and noised ones as they are. `self_conditioned`: an estimate of the clean rows may enter beside them,
    through a matrix that starts at zero.
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        embedding_dim: int = 0,
        scale: float | None = None,
        sphere: bool = False,
        self_conditioned: bool = False,
    ):
        super().__init__()
        self.vocab_size = vocab_size
        width = embedding_dim or hidden_size
        self.scale = width**0.5 if scale is None else scale
        self.table = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.table.weight, std=0.02)
        self.mask = nn.Parameter(torch.randn(width) * 0.02)
        self.project = nn.Linear(width, hidden_size, bias=False) if width != hidden_size else nn.Identity()
        self.sphere = sphere
        self.estimate = nn.Linear(width, hidden_size, bias=False) if self_conditioned else None
        if self.estimate is not None:
            nn.init.zeros_(self.estimate.weight)

    def rows(self) -> Tensor:
        """The raw token rows [V, E]."""
        return self.table.weight

    def forward(self, text: Tensor, soft: Tensor | None = None, estimate: Tensor | None = None) -> Tensor:
        """Tokens int64 [B, N], or with `sphere` noised rows float [B, N, E], to [B, N, H].

        `soft` [B, N, V] receives the gradient that one-hot rows would, and changes no value; `estimate` [B, N, E]: clean rows as they
        were estimated before.
        """
        if text.is_floating_point():
            assert self.sphere, "only embedding diffusion noises rows"
            hidden = self.project(text.to(self.table.weight.dtype))
        else:
            hidden = self._of_tokens(text, soft)
        if estimate is None:
            return hidden
        assert self.estimate is not None, "this network is shown no estimates"
        return hidden + self.estimate(estimate.to(self.table.weight.dtype))

    def _of_tokens(self, tokens: Tensor, soft: Tensor | None) -> Tensor:
        masked = tokens == self.vocab_size
        rows = self.table(tokens.masked_fill(masked, 0))
        if self.sphere:
            rows = on_sphere(rows) / self.scale
        if soft is not None:
            table = on_sphere(self.table.weight) / self.scale if self.sphere else self.table.weight
            rows = rows + (soft - soft.detach()).to(rows.dtype) @ table
        return self.project(torch.where(masked[..., None], self.mask.to(rows.dtype), rows) * self.scale)


class TextHead(nn.Module):
    """Logits over the vocabulary at the asked positions only.

    With `tied` the table of the embedding is used again (through a projection of its own back to the table's width). `plain` leaves
    the projection out; tables are then as wide as the hidden states. Behind an embedding with `sphere` the projection is x0_hat, the
    estimate of the clean rows: it starts at 0, the centre. Raises ValueError where such a head is not tied, or plain.
    """

    def __init__(self, embedding: TokenEmbedding, hidden_size: int, tied: bool = True, plain: bool = False):
        super().__init__()
        self.plain, self.sphere = plain, embedding.sphere
        if self.sphere and (plain or not tied):
            raise ValueError("text_process=embedding reads its tokens off their own rows: use tie_embeddings=true and no published head")
        width = embedding.table.weight.shape[1]
        self.norm = nn.LayerNorm(hidden_size)
        self.project = nn.Identity() if plain else nn.Linear(hidden_size, width, bias=False)
        self.decode = nn.Linear(width, embedding.vocab_size)
        nn.init.zeros_(self.decode.bias)
        if self.sphere:
            nn.init.zeros_(self.project.weight)  # type: ignore[arg-type]
        if tied:
            self.decode.weight = embedding.table.weight
        else:
            nn.init.normal_(self.decode.weight, std=0.02)

    def forward(self, hidden: Tensor, pair: NoisyPair) -> Tensor:
        if pair.logits_at is None:
            return self.logits(hidden)
        asked = hidden[pair.logits_at]
        count = len(asked)
        filled = F.pad(asked, (0, 0, 0, -count % ROWS_TOGETHER))
        return self.logits(filled)[:count]

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., H] to [..., V]."""
        return self._logits(self.estimate(hidden))

    def estimate(self, hidden: Tensor) -> Tensor:
        """norm(h) P', [..., H] to [..., E]: with `sphere` the estimate x0_hat."""
        return self.project(self.norm(hidden))

    def _logits(self, estimate: Tensor) -> Tensor:
        if not self.sphere:
            return self.decode(estimate)
        with torch.autocast(estimate.device.type, enabled=False):  # inner products of size E: bf16 would round away whole nats
            weight = self.decode.weight
            return F.linear(estimate.to(weight.dtype), on_sphere(weight), self.decode.bias)
