"""A pretrained language model becomes a denoiser, and what a denoiser keeps of it a language model again.

adopt       token rows, left-to-right halves, norms (and the head) are the weights; what a denoiser has besides starts so that
            a block does at first what it did: conditions are silent, gates open, a published head has no bias, and fusions take the
            mean of both halves: with `backward` as `forward` of one reading from either side, each as the weights do it. `fresh` halves
            are untrained: such a block starts with half of its published reading, and half of a random one
published   the same tensors back: bit for bit those that were adopted, as long as they have not trained
freeze      what came from the weights does not train; the mask's row, the latent's ways, the clocks, fusions and right-to-left
            halves of their own always do
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lgdlm.models.language_model import LanguageModel, language_model
from lgdlm.models.pretrained import Pretrained
from lgdlm.models.pretrained_layout import Sizes, sizes_of
from lgdlm.models.rwkv7 import Block
from lgdlm.models.rwkv_denoiser import RWKVDenoiser

BACKWARDS = ("forward", "fresh")
CHECKED_TOKENS = 64
EXACT_PARAMETERS = 400_000_000  # larger weights are compared in float32: a float64 copy of them may not fit beside the model
NOT_PUBLISHED = ("att_back", "fuse", "conditioning")


@dataclass(frozen=True)
class AdoptionReport:
    """What became of every tensor of the weights.

    used, ignored, absent  names of the file: adopted; not, and why; not there, and what stands for them
    parity_error           largest difference of logits over CHECKED_TOKENS seeded tokens, read whole: the denoiser's own rows,
                           left-to-right halves and head under its kernel in float32, against the recurrence on the tensors of the file
    parity_in              what the recurrence counts in: float64, or float32 for weights of more than EXACT_PARAMETERS numbers
    files                  SHA-256 of each file by its name; empty for weights that were not read from files
    """

    source: str
    layout: str
    sizes: Sizes
    used: list[str]
    ignored: dict[str, str]
    absent: dict[str, str]
    parity_error: float
    parity_in: str = "float64"
    files: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, for `pretrained.json`."""
        return asdict(self)

    def line(self) -> str:
        """One line for a terminal."""
        s = self.sizes
        return (
            f"weights: {self.source} ({self.layout}: {s.n_blocks} blocks of width {s.hidden_size}, {s.vocab_size} token rows), "
            f"{len(self.used)} tensors used, {len(self.ignored)} ignored, {len(self.absent)} absent, "
            f"parity error {self.parity_error:.1e} (logits against the {self.parity_in} recurrence)"
        )


@torch.no_grad()
def adopt(denoiser: RWKVDenoiser, weights: Pretrained, *, backward: str = "forward") -> AdoptionReport:
    """Take the weights, whose vocabulary rows are the denoiser's already (`Pretrained.rows`).

    `backward`: a right-to-left half with weights of its own starts as the left-to-right one (`forward`), or as it was built (`fresh`).
    """
    assert backward in BACKWARDS, f"backward_init {backward!r}"
    given, ignored = dict(weights.tensors), dict(weights.ignored)
    own = _published(denoiser)
    if not denoiser.text_head.plain:
        for name in [name for name in given if name.startswith(("ln_out.", "head."))]:
            ignored[name] = "the denoiser has a head of its own (use_rwkv_lm_head=false)"
            del given[name]
    for name, tensor in given.items():
        assert own[name].shape == tensor.shape, f"{name}: the denoiser is built in the sizes of the weights"
        own[name].copy_(tensor)
    if denoiser.text_head.plain:
        denoiser.text_head.decode.bias.zero_()  # published heads have none, whatever this one was told about its data
    denoiser.embedding.mask.copy_(denoiser.embedding.table.weight.mean(dim=0))
    for block in denoiser.backbone.blocks:
        assert isinstance(block, Block)
        if block.att_back is not None and backward == "forward":
            block.att_back.load_state_dict(block.att.state_dict())
        if block.fuse is not None:
            block.fuse.start_at_mean()
        if block.conditioning is not None:
            block.conditioning.open_gates()
    sizes, error = weights.sizes, parity_error(denoiser, weights)
    counted = str(parity_dtype(weights)).removeprefix("torch.")
    return AdoptionReport(str(weights.source), weights.layout, sizes, sorted(given), ignored, weights.absent, error, counted)


def _published(denoiser: RWKVDenoiser) -> dict[str, Tensor]:
    """The denoiser's own tensors that stand under a published name in weights which it adopted; the head only where it is one."""
    stack = denoiser.backbone.state_dict(keep_vars=True)
    tensors = {name: t for name, t in stack.items() if name.split(".")[2] not in NOT_PUBLISHED}
    tensors["emb.weight"] = denoiser.embedding.table.weight
    head = denoiser.text_head
    if head.plain:
        tensors |= {"ln_out.weight": head.norm.weight, "ln_out.bias": head.norm.bias}
        if head.decode.weight is not denoiser.embedding.table.weight:
            tensors["head.weight"] = head.decode.weight
    return tensors


@torch.no_grad()
def published(denoiser: RWKVDenoiser) -> tuple[dict[str, Tensor], Sizes, list[str]]:
    """(tensors under published names, sizes, names of the denoiser's parameters that no published model has).

    Any denoiser has such a part. Where the ends are not the published ones they are folded: rows times their scale and projection,
    the head's matrix times its projection. Tensors that need no folding are the denoiser's own.
    """
    tensors = _published(denoiser)
    head, ends = denoiser.text_head, denoiser.embedding
    if not isinstance(ends.project, nn.Identity) or ends.scale != 1:
        tensors["emb.weight"] = ends.project(ends.table.weight * ends.scale)
    if not head.plain:
        assert isinstance(head.project, nn.Linear)
        tensors |= {"ln_out.weight": head.norm.weight, "ln_out.bias": head.norm.bias}
        tensors["head.weight"] = head.decode.weight @ head.project.weight
    kept = {id(t) for t in tensors.values()} | {id(p) for p in (ends.table.weight, head.decode.weight, *ends.project.parameters())}
    left = [name for name, p in denoiser.named_parameters() if id(p) not in kept and not name.startswith("text_head.project")]
    return {name: t.detach() for name, t in tensors.items()}, sizes_of(tensors), left


def backbone_of(denoiser: RWKVDenoiser, head: Pretrained, **options: Any) -> LanguageModel:
    """The language model inside a denoiser, with the weights' own head where the denoiser has one of its own.

    It shares the denoiser's tensors. `options` are those of `language_model`.
    """
    own = {name: t.detach() for name, t in _published(denoiser).items()}
    theirs = {name: t.to(own["emb.weight"].device) for name, t in head.tensors.items() if name not in own}
    return language_model({**theirs, **own}, head.sizes, **options)


@torch.no_grad()
def parity_error(denoiser: RWKVDenoiser, weights: Pretrained) -> float:
    """See `AdoptionReport`. A head of the denoiser's own is no part of it: the weights' head stands in its place."""
    count = weights.sizes.vocab_size
    tokens = torch.randint(0, count, (1, CHECKED_TOKENS), generator=torch.Generator().manual_seed(0))
    block, head = denoiser.backbone.blocks[0], denoiser.text_head
    assert isinstance(block, Block)
    loaded = backbone_of(denoiser, weights, kernel=block.kernel, chunk=block.chunk)
    rows = denoiser.embedding(tokens.to(loaded.emb.weight.device)) + denoiser.text_kind
    hidden = loaded.stack(rows)[0]
    found = head.logits(hidden) if head.plain else loaded.head(loaded.ln_out(hidden))
    exact = weights.model(dtype=parity_dtype(weights), kernel="recurrence")(tokens)[0]
    return float((found.cpu() - exact).abs().max())


def parity_dtype(weights: Pretrained) -> torch.dtype:
    """What weights of this size are compared in."""
    return torch.float64 if sum(t.numel() for t in weights.tensors.values()) <= EXACT_PARAMETERS else torch.float32


def freeze(denoiser: RWKVDenoiser, *, backbone: bool, head: bool) -> None:
    """Stop the training of what weights gave: with `backbone` token rows and stack, with `head` the vocabulary head where it is theirs.

    A head tied to the token rows trains, or not, with them.
    """
    for name, tensor in _published(denoiser).items():
        of_head = name.startswith(("ln_out.", "head."))
        if head if of_head else backbone:
            tensor.requires_grad_(False)
    if head and denoiser.text_head.plain:
        denoiser.text_head.decode.bias.requires_grad_(False)
