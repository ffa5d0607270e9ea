"""Stage II's numbers: the bound never undercuts the source's entropy, where the NELBO given z does; latents of the model's own."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluation_world import DIM, VOCAB, Words, world

from lgdlm.batch import Batch
from lgdlm.config import TransformerModel
from lgdlm.data.collate import Frame
from lgdlm.data.paired import PairedDataset
from lgdlm.errors import InputError
from lgdlm.evaluation import METRICS, evaluate
from lgdlm.evaluation.bootstrap import Bootstrap
from lgdlm.evaluation.documents import Documents
from lgdlm.evaluation.metric import mean_of
from lgdlm.evaluation.results import Results
from lgdlm.evaluation.stage2 import Stage2, own_latents, posteriors_of
from lgdlm.models.build import build_model
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.models.prior import PRIOR_TYPES
from lgdlm.objectives.denoising import MODES, DenoisingObjective
from lgdlm.objectives.objective import Totals
from lgdlm.objectives.variational import VariationalObjective
from lgdlm.rng import Rng

QUICK = {"num_steps": 4, "bootstrap": 50, "likelihood_draws": 4, "latent_steps": 3, "joint_samples": 6, "num_samples": 12}
NUMBERS = {name for name, metric in METRICS.items() if metric.group == "stage2"}

# the source of the toy: pairs of four tokens, both the same in 12 of 15 cases; its entropy is known to every digit
TOKENS, SAME, OTHER = 4, 12, 1
PAIRS = [(a, b) for a in range(TOKENS) for b in range(TOKENS)]
COPIES = [SAME if a == b else OTHER for a, b in PAIRS]
ENTROPY = -sum(c / sum(COPIES) * math.log(c / sum(COPIES)) for c in COPIES)  # nats a pair


def toy_model(prior: str, seed: int = 0) -> TextLatentDiffusion:
    config = TransformerModel(
        hidden_size=32, n_blocks=1, n_heads=2, max_seq_len=2, latent_dim=2, latent_encoder_type="mlp", latent_prior_type=prior
    )
    return build_model(config, vocab_size=TOKENS, eos_id=0, latent_mean=torch.zeros(2), latent_std=torch.ones(2), seed=seed)


def source() -> Documents:
    """Every pair as often as the source says it, so that means over documents are expectations."""
    tokens = [np.array(pair) for pair, count in zip(PAIRS, COPIES, strict=True) for _ in range(count)]
    names = [str(i) for i in range(len(tokens))]
    return Documents(names, ["x x"] * len(tokens), tokens, np.zeros((len(tokens), 0), np.float32))


def trained(prior: str, steps: int = 200) -> TextLatentDiffusion:
    """Pulled to the prior a little less than the bound would, with free bits: its latent says much of the text.

    Two units at 0.75 nats have room for which of the four tokens is said twice (1.39 nats); at 0.5 they have not, and chance decides
    whether they are used. The learning rate falls to zero: at a constant one the noise of the bound's 1/t stays in the decoder.
    """
    model = toy_model(prior).train()
    objective = VariationalObjective(DenoisingObjective(MODES["l2t"]), kl_weight=0.3, free_bits=0.75)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    course = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 - done / steps)
    documents = source()
    text = torch.from_numpy(np.stack(documents.tokens))
    for step in range(1, steps + 1):
        rows = torch.arange(len(text))
        batch = Batch(text, torch.ones_like(text, dtype=torch.bool), None, rows)
        optimizer.zero_grad()
        objective(model, batch, Rng(0, step, rows), Totals(batch.tokens, batch.size)).total.backward()
        optimizer.step()
        course.step()
    return model.eval()


def numbers(model: TextLatentDiffusion, documents: Documents, draws: int = 64) -> Results:
    results = Results({}, {}, 0, {})
    measures = Stage2(model, documents, results, Bootstrap(len(documents), 20), 3, {})
    measures.bounds(Frame(), draws, "counts", np.zeros(len(documents)))
    return results


@pytest.mark.parametrize("prior", [pytest.param(name, marks=pytest.mark.nightly) if name == "diffusion" else name for name in PRIOR_TYPES])
def test_the_bound_does_not_undercut_the_entropy_of_the_source(prior: str) -> None:
    """Given z for free, the text costs less than it can be worth: that is no perplexity. With KL it costs at least its entropy."""
    results = numbers(trained(prior), source())
    given, bound = (results.number(f"stage2_{name}")["value"] * 2 for name in ("reconstruction", "bound"))
    assert given < 0.8 * ENTROPY, "the latent tells the text"
    assert bound > ENTROPY - 0.02, "and is paid for"
    assert bound < ENTROPY + 0.8, "at no absurd price"
    assert results.number("stage2_perplexity")["value"] > math.exp(ENTROPY / 2) - 0.03
    assert results.number("stage2_active_units")["value"] == 2
    assert results.number("stage2_mutual_information")["value"] <= results.number("stage2_kl")["value"] + 0.05


def test_the_bound_is_the_sum_of_its_parts() -> None:
    results = numbers(toy_model("learned_gaussian"), source(), 8)
    value = {entry["name"].removeprefix("stage2_"): entry["value"] for entry in results.numbers}
    assert value["bound"] == pytest.approx(value["reconstruction"] + value["kl"] / 2)
    assert value["perplexity"] == pytest.approx(math.exp(value["bound"]))
    assert sum(results.model["kl_by_dimension"]) == pytest.approx(value["kl"], abs=1e-3)
    documents = source()
    assert value["bits_per_byte"] == pytest.approx(value["bound"] * documents.lengths.sum() / documents.bytes.sum() / math.log(2))


def test_a_collapsed_posterior_is_seen() -> None:
    """No unit active, no information, no KL: and then the two bounds are one."""
    model = toy_model("fixed_gaussian")
    assert model.posterior is not None
    with torch.no_grad():
        for head in (model.posterior.mean, model.posterior.log_variance):
            head.weight.zero_()
            head.bias.zero_()
    value = {entry["name"].removeprefix("stage2_"): entry["value"] for entry in numbers(model, source(), 8).numbers}
    assert value["active_units"] == value["kl"] == 0
    assert value["mutual_information"] == pytest.approx(0, abs=1e-9)
    assert value["bound"] == value["reconstruction"]


@pytest.fixture(scope="module")
def small() -> tuple[PairedDataset, PairedDataset, TextLatentDiffusion]:
    train, validation = world(train=60, validation=24)
    config = TransformerModel(
        hidden_size=32, n_blocks=1, n_heads=2, max_seq_len=16, latent_dim=DIM, latent_encoder_type="mlp", latent_prior_type="diffusion"
    )
    mean, std = torch.tensor(train.manifest.latent_mean), torch.tensor(train.manifest.latent_std)
    return train, validation, build_model(config, vocab_size=VOCAB, eos_id=0, latent_mean=mean, latent_std=std)


def without_latents(dataset: PairedDataset) -> PairedDataset:
    return PairedDataset(dataset.store, replace(dataset.manifest, latent_dim=None), dataset.split)


def test_stage_2_is_measured_beside_stage_1(small) -> None:  # type: ignore[no-untyped-def]
    train, validation, model = small
    results = evaluate(model, Words(), train, validation, **QUICK)
    names = {entry["name"] for entry in results.numbers}
    assert names >= NUMBERS
    assert {"nelbo_given_latent", "t2l_r2_one_step"} <= names, "the same numbers as before Stage II, on the data's latents"
    assert "without z" in results.number("stage2_bound")["baselines"]
    unconditional = results.number("nelbo_unconditional")["value"]
    assert results.number("stage2_reconstruction")["baselines"]["without z"] == pytest.approx(unconditional)
    assert len(results.samples["prior"]) == QUICK["joint_samples"]
    assert len(results.model["kl_by_dimension"]) == DIM


def test_a_model_of_stage_1_has_no_such_numbers(joint_model: TextLatentDiffusion) -> None:
    assert joint_model.posterior is None
    train, validation = world(train=20, validation=4)
    tokens = [train.tokens(i) % 30 for i in range(4)]
    with pytest.raises(InputError, match="NO_POSTERIOR"):
        posteriors_of(joint_model, tokens)


def test_data_without_latents_are_measured_with_the_model_s_own(small) -> None:  # type: ignore[no-untyped-def]
    train, validation, model = small
    results = evaluate(model, Words(), without_latents(train), without_latents(validation), **QUICK)
    assert {entry["name"] for entry in results.numbers} >= NUMBERS
    tokens = [validation.tokens(i) for i in range(len(validation))]
    own = own_latents(model, tokens)
    assert own.shape == (len(tokens), DIM)
    text = torch.from_numpy(tokens[3])[None]
    mean = model.unstandardise(model.eval().read(text, torch.ones_like(text, dtype=torch.bool))[0].mean)
    np.testing.assert_allclose(own[3], mean[0, 0].detach().numpy(), atol=1e-5)


def test_a_text_s_numbers_do_not_depend_on_the_other_texts(small) -> None:  # type: ignore[no-untyped-def]
    train, validation, model = small
    tokens = [validation.tokens(i) for i in range(12)]
    one, some = posteriors_of(model, tokens), posteriors_of(model, tokens[4:7])
    torch.testing.assert_close(some.mean, one.mean[4:7], atol=1e-5, rtol=1e-4)


def test_an_ending_model_pays_for_its_rows() -> None:
    """Where EOS ends a text the bound holds the width of its row, as the unconditional one does."""
    train, validation = world(train=40, validation=8)
    size = {"hidden_size": 32, "n_blocks": 1, "n_heads": 2, "max_seq_len": 16, "latent_dim": DIM, "length": "eos"}
    config = TransformerModel(**size, latent_encoder_type="mlp")
    mean, std = torch.tensor(train.manifest.latent_mean), torch.tensor(train.manifest.latent_std)
    model = build_model(config, vocab_size=VOCAB, eos_id=0, latent_mean=mean, latent_std=std)
    documents = Documents(list("abcd"), ["w1 w2"] * 4, [validation.tokens(i) for i in range(4)], np.zeros((4, DIM), np.float32))
    found = []
    for row in (0.0, 2.0):
        results = Results({}, {}, 0, {})
        measures = Stage2(model, documents, results, Bootstrap(4, 0), 3, {})
        measures.bounds(Frame(eos_id=0, multiple=4, max_length=16), 4, "counts", np.full(4, row))
        found.append(results.number("stage2_bound")["value"] * documents.lengths.sum() / 4)
    assert found[1] - found[0] == pytest.approx(2.0)


def test_the_mean_of_documents_is_what_is_reported() -> None:
    model, documents = toy_model("fixed_gaussian"), source()
    measures = Stage2(model, documents, Results({}, {}, 0, {}), Bootstrap(len(documents), 0), 3, {})
    kl = measures.divergence(1)
    assert kl.shape == (len(documents), 2)
    value = numbers(model, documents, 4).number("stage2_kl")["value"]
    assert value == pytest.approx(float(METRICS["stage2_kl"].fn(mean_of(kl.sum(axis=1)).sum(axis=0))))
