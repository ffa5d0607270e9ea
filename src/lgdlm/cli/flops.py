"""`lgdlm flops model=NAME`: what the configured denoiser computes, counted from its real forward pass.

forward    2 a multiply-add of every matrix product and attention, and the WKV recurrence by its definition
training   three times that (the backward pass is two)          drawing   one forward pass a step, for every token
"""

from __future__ import annotations

from lgdlm.cli.progress import progress, shown
from lgdlm.config import Config
from lgdlm.errors import InputError

WORLD_IDS = 65_536  # of the RWKV tokenizer, where no other is named
STEPS = 50  # of a drawn text
SHARES = (8, 4, 2, 1)  # of the longest text


def run(config: Config) -> int:
    """Print the table; 0. Raises InputError for a model that cannot be built."""
    import torch

    from lgdlm.models.build import build_denoiser
    from lgdlm.models.flops import of_text
    from lgdlm.training.splits import named_tokenizer

    tokenizer, model = named_tokenizer(config), config.model
    vocab_size = WORLD_IDS if tokenizer is None else tokenizer.vocab_size
    try:
        torch.manual_seed(config.training.seed)
        denoiser = build_denoiser(model, vocab_size).eval()
    except (ValueError, RuntimeError) as problem:
        raise InputError("CONFIG", "command-line", "model", f"describes no model that can be built ({problem})") from problem
    lengths = sorted({max(2, model.max_seq_len // share) for share in SHARES})
    with progress(len(lengths), "counting") as bar:
        found = {}
        for length in lengths:
            found[length] = of_text(denoiser, model, length)
            bar.advance()
    parameters = sum(p.numel() for p in denoiser.parameters())
    with shown():
        print(f"{model.denoiser}: {parameters:,} parameters, {vocab_size:,} ids, width {model.hidden_size}, {model.n_blocks} blocks")
        print(f"{'tokens':>8} {'forward a token':>16} {'of it WKV':>10} {'training a token':>17} {f'a text in {STEPS} steps':>21}")
        for length, flops in found.items():
            token, wkv = flops.total / length, flops.wkv / flops.total
            print(f"{length:>8,} {token:>16.3e} {wkv:>9.1%} {3 * token:>17.3e} {STEPS * flops.total:>21.3e}")
    return 0
