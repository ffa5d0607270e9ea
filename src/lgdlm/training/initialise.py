"""What a fresh model is told about its data before step 1: closed-form or given knowledge, never the held-out texts.

    linear reading    ridge regression from bags of tokens to latents, on the training split
    token embedding   the encoder's own vectors of the token strings, rotated to their principal axes
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lgdlm.data.bag_ridge import fit_ridge
from lgdlm.data.encoder import load_encoder
from lgdlm.data.paired import PairedDataset
from lgdlm.data.tokenizer import load_tokenizer
from lgdlm.errors import InputError
from lgdlm.models.embedding import TokenEmbedding
from lgdlm.models.joint import TextLatentDiffusion

FIT_TEXTS = 200_000  # texts a ridge regression over a vocabulary needs no more of


def initialise(model: TextLatentDiffusion, data: PairedDataset, *, token_init: str, seed: int) -> None:
    """Everything a fresh model starts from; raises InputError where the encoder is needed and cannot be had."""
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


def fit_reading(model: TextLatentDiffusion, data: PairedDataset, seed: int) -> None:
    """Fit the linear skip on at most FIT_TEXTS training texts, drawn by `seed`."""
    assert model.reading is not None
    chosen = np.sort(np.random.default_rng(seed).permutation(len(data))[:FIT_TEXTS])
    flat, lengths = data.gather(chosen)
    tokens = np.split(flat, np.cumsum(lengths)[:-1])
    latents = data.latents(chosen)
    assert latents is not None
    standardised = model.standardise(torch.from_numpy(latents).to(model.device)).flatten(1).cpu().numpy()
    ridge = fit_ridge(tokens, standardised, model.denoiser.vocab_size, seed)
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
