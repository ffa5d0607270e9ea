"""What a fresh model is told about its data before step 1: closed-form or given knowledge, never the held-out texts.

head bias         log of the tokens' shares of the training split (add one half): step 1 starts at the unigram bound
linear reading    ridge regression from bags of tokens and token pairs to latents, on the training split
token embedding   the encoder's own vectors of the token strings, rotated to their principal axes
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lgdlm.data.bag_ridge import BY_LENGTH, PAIR_PENALTIES, fit_ridge
from lgdlm.data.encoder import load_encoder
from lgdlm.data.paired import PairedDataset
from lgdlm.data.tokenizer import load_tokenizer
from lgdlm.errors import InputError
from lgdlm.models.embedding import TokenEmbedding
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.models.linear_reading import BUCKETS, features

FIT_TEXTS = 200_000  # texts a ridge regression over a vocabulary needs no more of


def initialise(model: TextLatentDiffusion, data: PairedDataset, *, token_init: str, seed: int) -> None:
    """Everything a fresh model starts from; raises InputError where the encoder is needed and cannot be had."""
    set_head_bias(model, data)
    if model.reading is not None:
        fit_reading(model, data, seed)
    if token_init == "encoder":
        if data.manifest.encoder is None or data.folder is None:
            raise InputError("CONFIG", "config", "model.token_init", "encoder needs data prepared with one: use model.token_init=random")
        tokenizer = load_tokenizer(data.folder / "tokenizer")
        strings = [tokenizer.token_bytes(token).decode("utf-8", "replace").strip() for token in range(tokenizer.vocab_size)]
        named = [token for token, string in enumerate(strings) if string]
        vectors = load_encoder(data.manifest.encoder).encode([strings[token] for token in named])
        embed_tokens(model.denoiser.embedding, torch.tensor(named), torch.from_numpy(vectors))


@torch.no_grad()
def set_head_bias(model: TextLatentDiffusion, data: PairedDataset) -> None:
    """Let the vocabulary head say the token shares of (at most FIT_TEXTS) training texts before it has learned anything."""
    flat, _ = data.gather(data.head(FIT_TEXTS))
    counts = np.bincount(flat, minlength=model.denoiser.vocab_size) + 0.5
    model.denoiser.text_head.decode.bias.copy_(torch.from_numpy(np.log(counts / counts.sum())))


def fit_reading(model: TextLatentDiffusion, data: PairedDataset, seed: int) -> None:
    """Fit the linear skip on at most FIT_TEXTS training texts, drawn by `seed`."""
    assert model.reading is not None
    chosen = np.sort(np.random.default_rng(seed).permutation(len(data))[:FIT_TEXTS])
    flat, lengths = data.gather(chosen)
    vocab_size = model.denoiser.vocab_size
    bags = [features(tokens, vocab_size) for tokens in np.split(flat, np.cumsum(lengths)[:-1])]
    latents = data.latents(chosen)
    assert latents is not None
    standardised = model.standardise(torch.from_numpy(latents).to(model.device)).flatten(1).cpu().numpy()
    try:
        ridge = fit_ridge(bags, standardised, vocab_size + BUCKETS, seed, PAIR_PENALTIES, scaling=BY_LENGTH)
    except ValueError as problem:
        raise InputError("CONFIG", "config", "model.latent_skip", f"{problem}; use none") from problem
    assert ridge.held_out_error is not None
    model.reading.fit(ridge.weights, ridge.offset, torch.from_numpy(ridge.held_out_error).float())


@torch.no_grad()
def embed_tokens(embedding: TokenEmbedding, tokens: Tensor, vectors: Tensor) -> None:
    """Rows `tokens` int64 [n] of the table from vectors [n, E]: their leading principal axes, scaled to the table's own spread.

    A table wider than the vectors keeps its random remaining columns, and tokens without a string (white space) their random rows.
    """
    table = embedding.table.weight
    spread = table.std()
    centred = (vectors - vectors.mean(dim=0)).double()
    axes = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, : table.shape[1]]
    rows = (centred @ axes).to(table)
    table[tokens.to(table.device), : rows.shape[1]] = rows / rows.std() * spread
