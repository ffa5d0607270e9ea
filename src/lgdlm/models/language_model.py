"""RWKV-7 as it is published: a language model, reading from left to right.

    logits_i = head(ln_out(blocks(emb(token_1), ..., emb(token_i))))_i          of token i + 1

It is what pretrained weights are, and what they are again when a denoiser that grew out of them is exported: the denoiser's
token rows, left-to-right halves and norms, without its conditioning, its right-to-left halves and its latent.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgdlm.errors import InputError
from lgdlm.models.pretrained_layout import Sizes
from lgdlm.models.rwkv7 import RWKV7, RWKVState

STACK = "stack."
PIECE = 256  # tokens read at once for a likelihood


class LanguageModel(nn.Module):
    """`sizes` as the checkpoint says; `kernel` and `chunk` as in `wkv`."""

    def __init__(self, sizes: Sizes, *, kernel: str = "auto", chunk: int = 32):
        super().__init__()
        self.sizes = sizes
        self.emb = nn.Embedding(sizes.vocab_size, sizes.hidden_size)
        self.stack = RWKV7(
            sizes.hidden_size,
            sizes.n_blocks,
            head_size=sizes.head_size,
            ffn_size=sizes.ffn_size,
            ranks=sizes.ranks,
            kernel=kernel,
            chunk=chunk,
        )
        self.ln_out = nn.LayerNorm(sizes.hidden_size)
        self.head = nn.Linear(sizes.hidden_size, sizes.vocab_size, bias=False)
        if sizes.tied:
            self.head.weight = self.emb.weight

    def forward(self, tokens: Tensor, state: RWKVState | None = None) -> tuple[Tensor, RWKVState]:
        """int64 [B, N] behind a text of which `state` is left, to logits [B, N, V] and the state behind them."""
        x, state = self.stack(self.emb(tokens), state)
        assert state is not None
        return self.head(self.ln_out(x)), state

    def published(self) -> dict[str, Tensor]:
        """Every tensor under its published name; a tied head stands as the embedding alone."""
        own = {name.removeprefix(STACK): tensor for name, tensor in self.state_dict().items()}
        return {name: tensor for name, tensor in own.items() if not (self.sizes.tied and name == "head.weight")}


def shapes_of(sizes: Sizes) -> dict[str, torch.Size]:
    """What a complete set of weights of these sizes holds, by published name."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in LanguageModel(sizes).published().items()}


def language_model(
    tensors: dict[str, Tensor], sizes: Sizes, *, dtype: torch.dtype = torch.float32, kernel: str = "auto", chunk: int = 32
) -> LanguageModel:
    """The model of published tensors, which it shares where they have `dtype` already.

    Raises InputError (BAD_WEIGHTS) where one does not fit.
    """
    with torch.device("meta"):
        model = LanguageModel(sizes, kernel=kernel, chunk=chunk)
    shapes = {name: tensor.shape for name, tensor in model.published().items()}
    if differing := sorted(shapes.keys() ^ tensors.keys()):
        raise InputError("BAD_WEIGHTS", "weights", differing[0], "is in the weights or in a model of their sizes, and not in both")
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise InputError("BAD_WEIGHTS", "weights", name, f"the shape {list(shape)} is expected, got {list(tensors[name].shape)}")
    given = {STACK + name if name.startswith("blocks.") else name: tensor.to(dtype) for name, tensor in tensors.items()}
    if sizes.tied:
        given["head.weight"] = given["emb.weight"]
    model.load_state_dict(given, assign=True)
    if sizes.tied:
        model.head.weight = model.emb.weight
    return model.requires_grad_(False).eval()


@torch.no_grad()
def nats(model: LanguageModel, tokens: Tensor, end: int) -> Tensor:
    """-log p(token_1 .. token_n) of each row of int64 [B, N] in nats, float64 [B]. Token 1 is read behind `end`, which divides texts.

    Long rows are read in pieces with the state carried on, so memory does not grow with them.
    """
    before = F.pad(tokens[:, :-1], (1, 0), value=end)
    total, state = torch.zeros(len(tokens), dtype=torch.float64, device=tokens.device), None
    for asked, read in zip(tokens.split(PIECE, dim=1), before.split(PIECE, dim=1), strict=True):
        logits, state = model(read, state)
        total += F.cross_entropy(logits.transpose(1, 2), asked, reduction="none").double().sum(dim=1)
    return total
