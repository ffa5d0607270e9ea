"""MMDiT under its old signature."""

from __future__ import annotations

from typing import Any

from lgdlm.doors.network import OldNetwork


class MultimodalMMDiT(OldNetwork):
    """`MMDiTDenoiser` as `OldNetwork`: see there for `forward`. Latents are 1024 wide unless `latent_dim` says otherwise."""

    denoiser_name = "mmdit"

    def __init__(self, config: Any, vocab_size: int, latent_dim: int = 1024, cluster_size: int = 0):
        super().__init__(config, vocab_size, latent_dim, cluster_size)
