"""Every denoiser over noised rows: the same contract, and nothing of a token but its noised row."""

from __future__ import annotations

import pytest
import torch

from lgdlm.config import MODELS
from lgdlm.diffusion.embedding import EmbeddingDiffusion, on_sphere
from lgdlm.errors import InputError
from lgdlm.models.build import DENOISERS, build_model
from lgdlm.models.denoiser import NoisyPair
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.rng import Rng

V, D, E, B, N = 21, 4, 8, 3, 9
BLOCKS = "rwkv7 in blocks"
NAMES = [*DENOISERS, BLOCKS]


def tiny(name: str, awake: bool = True, **options: object) -> TextLatentDiffusion:
    kind = MODELS["rwkv7" if name == BLOCKS else name]
    own = {"causality": "block_causal", "block_size": 4} if name == BLOCKS else {}
    sizes = {"hidden_size": 64, "n_blocks": 2, "latent_dim": D, "max_seq_len": 16, "embedding_dim": E}
    config = kind(**{**sizes, **own, "text_process": "embedding", "self_conditioning_prob": 0.5, **options})
    model = build_model(config, vocab_size=V, eos_id=0, latent_mean=torch.zeros(D), latent_std=torch.ones(D), text_weighting="uniform")
    if awake:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=generator) * 0.1)
    return model.eval()


def process(model: TextLatentDiffusion) -> EmbeddingDiffusion:
    assert isinstance(model.text_process, EmbeddingDiffusion)
    return model.text_process


def question(model: TextLatentDiffusion, text: torch.Tensor, t: float = 0.5, lengths: tuple[int, ...] = (9, 9, 9)) -> NoisyPair:
    generator, rng = torch.Generator().manual_seed(2), Rng(0, 1, torch.arange(B))
    seen, clock = torch.arange(N) < torch.tensor(lengths)[:, None], torch.full((B,), t)
    x_t = process(model).noise(text, clock, rng, seen)
    return NoisyPair(x_t, clock, torch.randn(B, 1, D, generator=generator), torch.full((B,), 0.3), seen)


def texts(seed: int = 3) -> torch.Tensor:
    return torch.randint(0, V, (B, N), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_answers_tokens_rows_and_latents(name: str) -> None:
    model = tiny(name)
    answer = model(question(model, texts()))
    assert answer.text_logits.shape == (B, N, V)
    assert answer.embedding is not None
    assert answer.embedding.shape == (B, N, E)
    assert answer.latent.shape == (B, 1, D)
    rows = on_sphere(model.denoiser.embedding.table.weight)
    torch.testing.assert_close(answer.text_logits, answer.embedding @ rows.T + model.denoiser.text_head.decode.bias, atol=1e-4, rtol=1e-4)


def test_a_token_is_known_by_its_noised_row_alone(name: str) -> None:
    """Two tokens with one row are one token to the network, whatever else is stored under their ids."""
    model, one = tiny(name), texts()
    with torch.no_grad():
        model.denoiser.embedding.table.weight[5] = model.denoiser.embedding.table.weight[7]
    one = torch.where(one == 7, 5, one)
    one[:, 2] = 5
    other = torch.where(one == 5, 7, one)
    answers = [model(question(model, text, 0.6)) for text in (one, other)]
    assert torch.equal(answers[0].hidden, answers[1].hidden)
    assert torch.equal(answers[0].latent, answers[1].latent)


def test_at_the_prior_nothing_of_the_text_is_left(name: str) -> None:
    model = tiny(name)
    pairs = [question(model, text, 1.0) for text in (texts(), texts(4))]
    assert torch.equal(pairs[0].text, pairs[1].text)
    assert torch.equal(model(pairs[0]).text_logits, model(pairs[1]).text_logits)
    assert not torch.equal(question(model, texts(), 0.9).text, question(model, texts(4), 0.9).text)


def test_a_clean_text_is_the_same_as_tokens_and_as_rows(name: str) -> None:
    model = tiny(name)
    pair = question(model, texts(), 0.0)
    tokens = model(pair.at(text=texts()))
    torch.testing.assert_close(model(pair).hidden, tokens.hidden, atol=1e-5, rtol=1e-4)
    assert torch.equal(model.embedded(pair.at(text=texts())).text, process(model).embed(texts()))


def test_padding_changes_nothing(name: str) -> None:
    model, lengths = tiny(name), (9, 4, 6)
    pair = question(model, texts(), 0.5, lengths)
    noisy = pair.at(text=torch.where(pair.attention_mask[..., None], pair.text, torch.full_like(pair.text, 9.0)))
    mine, theirs = model(pair), model(noisy)
    torch.testing.assert_close(mine.embedding[pair.attention_mask], theirs.embedding[pair.attention_mask], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mine.latent, theirs.latent, atol=1e-5, rtol=1e-4)


def test_an_estimate_enters_through_its_own_matrix_and_starts_silent(name: str) -> None:
    fresh = tiny(name, awake=False)
    pair = question(fresh, texts())
    estimate = process(fresh).embed(texts())
    assert torch.equal(fresh(pair).hidden, fresh(pair.at(estimate=estimate)).hidden)
    model = tiny(name)
    assert not torch.equal(model(pair).hidden, model(pair.at(estimate=estimate)).hidden)
    torch.testing.assert_close(model(pair).hidden, model(pair.at(estimate=torch.zeros_like(estimate))).hidden)


def test_the_own_estimate_is_data(name: str) -> None:
    model = tiny(name)
    pair = question(model, texts())
    conditioned = model.self_conditioned(pair)
    assert conditioned.estimate is not None
    assert not conditioned.estimate.requires_grad
    torch.testing.assert_close(conditioned.estimate, model(pair).embedding.detach())


def test_gradients_reach_the_rows_through_input_and_logits(name: str) -> None:
    model = tiny(name)
    table = model.denoiser.embedding.table.weight
    rare = texts().clamp_max(V - 2)  # the last token is in no text: it has a logit and no noised row
    answer = model(question(model, rare))
    (of_rows,) = torch.autograd.grad(answer.embedding.square().sum(), table, retain_graph=True)
    assert not of_rows[V - 1].any()
    assert of_rows[rare.unique()].abs().sum(dim=1).gt(0).all()
    (of_logits,) = torch.autograd.grad(answer.text_logits.square().sum(), table)
    assert of_logits[V - 1].any()


def test_a_fresh_model_says_the_centre() -> None:
    model = tiny("transformer", awake=False)
    answer = model(question(model, texts()))
    assert not answer.embedding.any()
    assert not answer.text_logits.any(), "the bias starts at zero, before the data's shares are written into it"


def test_dropped_text_is_noise_and_its_clock_says_so() -> None:
    model = tiny("transformer")
    pair, rng = question(model, texts()), Rng(0, 0, torch.arange(B))
    dropped = model.without_text(pair.at(estimate=pair.text), rng)
    assert dropped.estimate is None
    assert (dropped.t_text == 1).all()
    assert torch.equal(dropped.text, process(model).prior((B, N), rng))
    assert torch.equal(model.unknown_text(pair.attention_mask, rng), dropped.text)


def test_copies_of_a_model_noise_with_their_own_table() -> None:
    import copy

    model = tiny("transformer")
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.denoiser.embedding.table.weight.neg_()
    torch.testing.assert_close(process(twin).embed(texts()), -process(model).embed(texts()))


@pytest.mark.parametrize(
    "wrong",
    [
        {"tie_embeddings": False},
        {"denoiser": "rwkv7", "published_ends": True, "embedding_dim": 0},
        {"denoiser": "rwkv7", "causality": "block_causal", "block_context": "clean"},
    ],
)
def test_what_cannot_be_embedded_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match="text_process=embedding"):
        tiny(str(wrong.get("denoiser", "transformer")), **wrong)


def test_a_weighting_of_another_process_is_refused() -> None:
    for process_name, weighting in (("embedding", "elbo"), ("masked", "epsilon")):
        config = MODELS["transformer"](hidden_size=32, n_blocks=1, latent_dim=D, text_process=process_name)
        with pytest.raises(InputError, match="text_weighting"):
            build_model(config, vocab_size=V, eos_id=0, latent_mean=torch.zeros(D), latent_std=torch.ones(D), text_weighting=weighting)


def test_without_self_conditioning_there_is_no_matrix_for_it() -> None:
    model = tiny("transformer", self_conditioning_prob=0.0)
    assert model.denoiser.embedding.estimate is None
    with pytest.raises(AssertionError, match="no estimates"):
        model(question(model, texts()).at(estimate=process(model).embed(texts())))
