"""RWKV-7 under its old signatures: the denoiser, and two stacks that read a text in blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from lgdlm.data.storage import write_bytes
from lgdlm.doors.network import OldNetwork
from lgdlm.models.adoption import AdoptionReport, adopt, freeze
from lgdlm.models.block_causal import two_stacks
from lgdlm.models.pretrained import Pretrained, read_pretrained
from lgdlm.models.rwkv_denoiser import RWKVDenoiser


class MultimodalRWKVDenoiser(OldNetwork):
    """`RWKVDenoiser` as `OldNetwork`: see there for `forward`.

    rwkv_model   None: built from `config`. A module with RWKV-7 weights under published or Hugging Face names (rwkv7-hf, fla), a
                 `Pretrained`, or a path: its sizes are taken and its weights adopted (`adopted` reports on them); `freeze_backbone` and
                 `train_lm_head` hold. Its vocabulary must be the first `vocab_size` rows.

    Raises InputError for weights that are no complete RWKV-7, and for a configuration that cannot be built.
    """

    denoiser_name = "rwkv7"

    def __init__(self, config: Any, rwkv_model: Any, vocab_size: int, latent_dim: int, cluster_size: int = 0):
        if rwkv_model is None:
            super().__init__(config, vocab_size, latent_dim, cluster_size)
            self.adopted: AdoptionReport | None = None
            return
        weights = pretrained_of(rwkv_model)
        s = weights.sizes
        sizes = {"hidden_size": s.hidden_size, "n_blocks": s.n_blocks, "head_size": s.head_size, "ffn_ratio": s.ffn_size / s.hidden_size}
        super().__init__(config, vocab_size, latent_dim, cluster_size, **sizes, ranks=s.ranks, published_ends=True)
        rows = None if vocab_size == s.vocab_size else _first_rows(vocab_size, s.vocab_size)
        denoiser, chosen = self.diffusion.denoiser, self.config.model
        assert isinstance(denoiser, RWKVDenoiser)
        self.adopted = adopt(denoiser, weights.rows(rows), backward=getattr(chosen, "backward_init", "forward"))
        freeze(denoiser, backbone=getattr(chosen, "freeze_backbone", None) is not False, head=not getattr(chosen, "train_lm_head", False))


def pretrained_of(model: Any) -> Pretrained:
    """The weights that a module, a `Pretrained` or a path stands for."""
    if isinstance(model, Pretrained):
        return model
    if isinstance(model, nn.Module):
        with TemporaryDirectory(prefix="lgdlm-") as folder:
            file = Path(folder, "model.safetensors")
            write_bytes(file, save({name: t.detach().cpu().contiguous().clone() for name, t in model.state_dict().items()}))
            return read_pretrained(file)
    return read_pretrained(Path(model))


def _first_rows(count: int, rows: int) -> Tensor:
    import torch

    if count > rows:
        raise ValueError(f"vocab_size {count}: the weights have {rows} token rows")
    return torch.arange(count)


class BlockCausalRWKV(nn.Module):
    """Two given networks over a text in blocks: left to right across them, right to left inside each (`two_stacks`). No weights of its own.

    `block_size`, where given, is what every block but the last must have.
    """

    def __init__(self, block_size: int | None = None):
        super().__init__()
        self.block_size = block_size

    def forward(
        self,
        blocks: Sequence[Tensor],
        state_in: Any,
        rwkv_f: Callable[[Tensor, Any], tuple[Tensor, Any]],
        rwkv_b: Callable[[Tensor, Any], Any] | None,
    ) -> tuple[Tensor, Any]:
        """Token blocks int64 [B, block] and a state of `rwkv_f` (None: none yet) to hidden [B, N, D] and the state behind the text.

        `rwkv_f(tokens, state)` and `rwkv_b(tokens, None)` answer hidden [B, block, D] and a state. Raises ValueError for no block, or
        one of another size.
        """
        if not blocks:
            raise ValueError("blocks: at least one is expected")
        if self.block_size is not None and (bad := [b.shape[1] for b in blocks[:-1] if b.shape[1] != self.block_size]):
            raise ValueError(f"blocks of {self.block_size} tokens are expected, got one of {bad[0]}")
        return two_stacks(blocks, state_in, rwkv_f, rwkv_b)
