"""The bound against exact probabilities, the two estimators against each other, and what a document's draws may depend on."""

import numpy as np
import pytest
import torch
from oracles import TextTable

from lgdlm.data.collate import Frame
from lgdlm.diffusion.gaussian import GaussianDiffusion
from lgdlm.diffusion.masked import MaskedDiffusion
from lgdlm.errors import InputError
from lgdlm.evaluation.documents import Documents, derangement
from lgdlm.evaluation.likelihood import ESTIMATORS, standard_error, text_nelbo
from lgdlm.models.denoiser import Denoiser, NoisyPair, Prediction
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.models.length import LengthHead

VOCAB, LENGTH = 3, 3


class Exact(Denoiser):
    """Two tables, one for each sign of the latent: knows p(y | z) where the latent is clean and their mixture where it is noise."""

    vocab_size, latent_len, latent_dim, hidden_size = VOCAB, 1, 1, 1

    def __init__(self):
        super().__init__()
        self.tables = {sign: TextTable.random(VOCAB, LENGTH, seed=sign + 3) for sign in (-1, 1)}
        self.seen: list[NoisyPair] = []
        self.unused = torch.nn.Parameter(torch.zeros(()))

    def log_p(self, y, sign):
        parts = [self.tables[s].log_p[self.tables[s].index(y)].exp() for s in ((sign,) if sign else (-1, 1))]
        return float((sum(parts) / len(parts)).log())

    def forward(self, pair):
        self.seen.append(pair)
        joint = torch.zeros(pair.size, VOCAB**LENGTH, dtype=torch.float64)
        for row in range(pair.size):
            clean = pair.t_latent[row] == 0
            for sign, table in self.tables.items():
                if not clean or int(pair.latent[row].sign()) == sign:
                    joint[row] += table.probability
        posterior = torch.stack(
            [TextTable(VOCAB, LENGTH, self.tables[1].sequences, p).posterior(x[None])[0] for p, x in zip(joint, pair.text, strict=True)]
        )
        logits = posterior.log()
        return Prediction(logits if pair.logits_at is None else logits[pair.logits_at], pair.latent, torch.zeros(pair.size, LENGTH, 1))


def oracle():
    torch.manual_seed(0)
    length = LengthHead(1, 1, max_length=5, width=8)
    return TextLatentDiffusion(Exact(), MaskedDiffusion(VOCAB), GaussianDiffusion(), length, torch.zeros(1), torch.ones(1), eos_id=0)


def every_text(sign):
    sequences = TextTable.random(VOCAB, LENGTH, 0).sequences.numpy()
    texts = ["".join("abc"[i] for i in row) for row in sequences]
    return Documents(texts, texts, list(sequences), np.full((len(texts), 1), float(sign), np.float32))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(("condition", "sign"), [("given_latent", 1), ("given_latent", -1), ("unconditional", 0)])
def test_an_exact_denoiser_pays_minus_log_p(estimator, condition, sign):
    model, documents = oracle(), every_text(sign or 1)
    found = text_nelbo(model, documents, condition, draws=512, seed=1, estimator=estimator)
    expected = np.array([-model.denoiser.log_p(torch.from_numpy(ids)[None], sign) for ids in documents.tokens])
    error = (found.text - expected).sum()
    assert abs(error) < 4 * np.sqrt(found.variance.sum())
    assert np.sqrt(found.variance.sum()) < 0.03 * expected.sum(), "the tolerance must be able to fail"


def test_both_estimators_agree_on_each_document_and_counting_masks_has_less_variance():
    model, documents = oracle(), every_text(1).select(np.arange(0, 27, 3))
    counts, times = (text_nelbo(model, documents, "given_latent", draws=1024, seed=2, estimator=name) for name in ESTIMATORS)
    assert (np.abs(counts.nats - times.nats) < 5 * np.sqrt(counts.variance + times.variance)).all()
    assert counts.variance.sum() < times.variance.sum()


def test_the_length_is_paid_for_from_the_same_latent():
    model, documents = oracle(), every_text(1)
    found = text_nelbo(model, documents, "given_latent", draws=2)
    z = torch.from_numpy(documents.latents)[:, None]
    expected = model.length.loss(z, torch.zeros(len(z)), torch.full((len(z),), LENGTH)).detach().numpy()
    np.testing.assert_allclose(found.length, expected, rtol=1e-5)
    np.testing.assert_allclose(found.nats, found.text + found.length)


def test_a_document_is_measured_alike_alone_in_company_and_in_any_batch():
    model, documents = oracle(), every_text(-1)
    whole = text_nelbo(model, documents, "unconditional", draws=4, seed=3)
    small = text_nelbo(model, documents, "unconditional", draws=4, seed=3, batch_tokens=6)
    some = np.array([20, 4])
    alone = text_nelbo(model, documents.select(some), "unconditional", draws=4, seed=3)
    np.testing.assert_allclose(whole.nats, small.nats, rtol=1e-6)
    np.testing.assert_allclose(whole.nats[some], alone.nats, rtol=1e-6)
    assert not np.allclose(whole.nats, text_nelbo(model, documents, "unconditional", draws=4, seed=4).nats)


def test_the_bound_does_not_read_the_training_weight():
    model, documents = oracle(), every_text(1)
    before = text_nelbo(model, documents, draws=3)
    model.text_process.weighting = "uniform"
    for estimator in ESTIMATORS:
        model.text_process.weighting = "uniform"
        uniform = text_nelbo(model, documents, draws=3, estimator=estimator)
        model.text_process.weighting = "elbo"
        np.testing.assert_array_equal(uniform.nats, text_nelbo(model, documents, draws=3, estimator=estimator).nats)
    np.testing.assert_array_equal(before.nats, text_nelbo(model, documents, draws=3).nats)


def test_conditions_set_the_latent_clock_and_the_latent():
    model = oracle()
    documents = every_text(1)
    documents = Documents(documents.ids, documents.texts, documents.tokens, np.arange(1, 28, dtype=np.float32)[:, None])
    for condition, clock in (("given_latent", 0.0), ("shuffled_latent", 0.0), ("unconditional", 1.0)):
        model.denoiser.seen.clear()
        text_nelbo(model, documents, condition, draws=1)
        assert all((pair.t_latent == clock).all() for pair in model.denoiser.seen)
        latents = torch.cat([pair.latent.flatten() for pair in model.denoiser.seen])
        if condition == "unconditional":
            assert len(set(latents.tolist()) & set(range(1, 28))) == 0
        else:
            assert (latents == torch.arange(1.0, 28.0)).all() == (condition == "given_latent")
            assert (latents == torch.arange(1.0, 28.0)).any() == (condition == "given_latent"), "a derangement keeps nobody in place"


class Uniform(Denoiser):
    """Every token alike: the cost of a position is log V, so what is counted can be told from the total."""

    vocab_size, latent_len, latent_dim, hidden_size = 4, 1, 1, 1

    def forward(self, pair):
        self.asked = [*getattr(self, "asked", []), (pair.text, pair.attention_mask, pair.logits_at)]
        return Prediction(torch.zeros(int(pair.logits_at.sum()), 4), pair.latent, torch.zeros(*pair.text.shape, 1))


def test_with_eos_the_first_is_paid_the_filling_is_seen_and_never_scored():
    model = TextLatentDiffusion(Uniform(), MaskedDiffusion(4), GaussianDiffusion(), None, torch.zeros(1), torch.ones(1), eos_id=0)
    tokens = [np.array([1, 2]), np.array([3]), np.array([1, 1, 2, 3])]
    documents = Documents(list("abc"), ["ab", "c", "defg"], tokens, np.ones((3, 1), np.float32))
    found = text_nelbo(model, documents, draws=64, frame=Frame(eos_id=0, width=8))
    np.testing.assert_allclose(found.nats, (documents.lengths + 1) * np.log(4), rtol=1e-6)
    assert (found.length == 0).all()
    texts, seen, asked = zip(*model.denoiser.asked, strict=True)
    assert all(mask.all() and mask.shape[1] == 8 for mask in seen)
    assert any(((text == 4) & ~at).any() for text, at in zip(texts, asked, strict=True)), "the filling is noised as well"
    with pytest.raises(InputError, match="TEXT_TOO_LONG"):
        text_nelbo(model, documents, frame=Frame(eos_id=0, width=4))


def test_a_text_longer_than_the_model_is_refused_by_name():
    model, documents = oracle(), every_text(1)
    long = Documents(["short", "long"], ["a", "b"], [np.array([1]), np.ones(6, np.int64)], documents.latents[:2])
    with pytest.raises(InputError, match="long"):
        text_nelbo(model, long)


def test_a_derangement_moves_everybody_and_needs_two():
    for count in (2, 3, 50):
        partner = derangement(count, seed=5)
        assert sorted(partner) == list(range(count))
        assert (partner != np.arange(count)).all()
    with pytest.raises(ValueError, match="two"):
        derangement(1, seed=0)


def test_one_draw_cannot_tell_its_error():
    model, documents = oracle(), every_text(1)
    assert standard_error(text_nelbo(model, documents, draws=1), documents) is None
    assert standard_error(text_nelbo(model, documents, draws=2), documents) > 0
