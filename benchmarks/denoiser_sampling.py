"""What a step of sampling costs with each denoiser: a whole text from a latent, side by side in one run.

    python benchmarks/denoiser_sampling.py [--tokens 512 --steps 50 --rows 2 --hidden 256 --blocks 6 --rounds 3]

The shapes are those of `lgdlm ablate denoisers`: equal width and depth, the feed-forward width chosen so that all have about the same
number of parameters. Ratios count; each row is the minimum over interleaved rounds. RWKV-7 over blocks draws block after block with a
carried state, `steps` for each block, and every step reads one block only.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
from sampling import fastest

from lgdlm.ablation.matrix_file import read_matrix
from lgdlm.config import MODELS
from lgdlm.hardware import compute_dtype
from lgdlm.models.build import build_model
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.sampling import sample_text_from_latent

VOCABULARY, LATENT = 8192, 32
FURTHER = {
    "rwkv7, causal": {"causality": "causal"},
    "rwkv7, blocks of 64": {"causality": "block_causal", "block_size": 64, "block_context": "clean"},
}


def shapes(hidden: int, blocks: int, tokens: int) -> dict[str, TextLatentDiffusion]:
    """Untrained models by name; what they cost does not depend on what they have learned."""
    variants = {
        v.name: {key.partition(".")[2]: value for key, value in v.set.items() if "." in key} for v in read_matrix("denoisers").variants
    }
    kinds = {name: (name, keys) for name, keys in variants.items()}
    kinds |= {name: ("rwkv7", {**variants["rwkv7"], **keys}) for name, keys in FURTHER.items()}
    found = {}
    for name, (kind, keys) in kinds.items():
        config = MODELS[kind](hidden_size=hidden, n_blocks=blocks, max_seq_len=tokens, latent_dim=LATENT, **keys)
        found[name] = build_model(
            config, vocab_size=VOCABULARY, eos_id=0, latent_mean=torch.zeros(LATENT), latent_std=torch.ones(LATENT)
        ).eval()
    return found


def sampler(
    model: TextLatentDiffusion, latent: torch.Tensor, tokens: int, steps: int, dtype: torch.dtype | None
) -> Callable[[], torch.Tensor]:
    def run() -> torch.Tensor:
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            return sample_text_from_latent(model, latent, tokens, steps).tokens

    return run


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("tokens", 512), ("steps", 50), ("rows", 2), ("hidden", 256), ("blocks", 6), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", choices=("auto", "bf16", "fp32"), default="auto")
    asked = parser.parse_args(arguments)
    models = shapes(asked.hidden, asked.blocks, asked.tokens)
    latent = torch.randn(asked.rows, LATENT, generator=torch.Generator().manual_seed(0))
    dtype = compute_dtype(asked.dtype)
    seconds = fastest({name: sampler(m, latent, asked.tokens, asked.steps, dtype) for name, m in models.items()}, asked.rounds)
    per = 1000 / asked.steps
    how = f"{'bf16' if dtype else 'fp32'}, {torch.get_num_threads()} threads"
    print(f"{asked.rows} texts of {asked.tokens} tokens in {asked.steps} steps, {how}")
    print(f"{'':24}{'parameters':>12}{'ms a step':>12}{'ms a text':>12}  of transformer's")
    for name, value in seconds.items():
        size = sum(p.numel() for p in models[name].parameters())
        blocks = -(-asked.tokens // (models[name].denoiser.block_diffusion or asked.tokens))
        ratio = value / seconds["transformer"]
        print(f"{name:24}{size:12,}{value * per / blocks:12.1f}{1000 * value / asked.rows:12.0f}{ratio:10.2f} x")


if __name__ == "__main__":
    main()
