"""A small world for evaluation: sentences whose latents an encoder and a projection can give back."""

import numpy as np
import torch

from lgdlm.config import TransformerModel
from lgdlm.data.manifest import Manifest
from lgdlm.data.paired import PairedDataset
from lgdlm.data.synthetic import MemorySplit, tiny_dataset
from lgdlm.models.build import build_model

VOCAB, WIDTH, DIM = 32, 12, 4


class Words:
    """A tokenizer's half: ids to words and no more."""

    eos_id = 0

    def decode(self, ids):
        return " ".join(f"w{token}" for token in ids)


class BagEncoder:
    """Mean of fixed word vectors: an encoder without weights to load."""

    dim = WIDTH

    def __init__(self, seed=0):
        self.vectors = np.random.default_rng(seed).normal(size=(VOCAB, WIDTH))

    def encode(self, texts):
        assert all(text.strip() for text in texts), "a blank text has nothing to encode"
        return np.stack([self.vectors[[int(word[1:]) for word in text.split()]].mean(axis=0) for text in texts]).astype(np.float32)


def project(x):
    return np.ascontiguousarray(x[:, :DIM])


def world(train=120, validation=30, seed=0):
    """(train, validation): `tiny_dataset` sentences under the latents project(BagEncoder)."""
    splits, statistics = [], {}
    for name, count in (("train", train), ("validation", validation)):
        plain = tiny_dataset(count, VOCAB, DIM, seed, name)
        tokens = [plain.tokens(i) for i in range(count)]
        texts = [Words().decode(ids) for ids in tokens]
        latents = project(BagEncoder().encode(texts))
        if name == "train":
            statistics = {"latent_mean": tuple(latents.mean(0).tolist()), "latent_std": tuple(latents.std(0).tolist())}
        counts = {name: {"rows": count, "tokens": sum(map(len, tokens)), "bytes": sum(map(len, texts))}}
        facts = {"kind": "synthetic", "vocab_size": VOCAB, "eos_id": 0}
        manifest = Manifest(layout="packed", vocab_size=VOCAB, tokenizer=facts, counts=counts, latent_dim=DIM, **statistics)
        splits.append(PairedDataset(MemorySplit([f"{name}-{i}" for i in range(count)], texts, tokens, latents), manifest, name))
    return splits


def tiny_model(dataset, length="predicted", seed=0):
    """An untrained transformer of a few thousand parameters."""
    config = TransformerModel(hidden_size=32, n_blocks=1, n_heads=2, max_seq_len=16, latent_dim=DIM, length=length)
    mean, std = torch.tensor(dataset.manifest.latent_mean), torch.tensor(dataset.manifest.latent_std)
    return build_model(config, vocab_size=VOCAB, eos_id=0, latent_mean=mean, latent_std=std, seed=seed)
