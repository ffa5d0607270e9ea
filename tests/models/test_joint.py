"""The model around a denoiser: statistics that travel, conditions that can be dropped, one language for latents."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from lgdlm.diffusion.gaussian import PARAMETERIZATIONS, GaussianDiffusion
from lgdlm.diffusion.masked import MaskedDiffusion
from lgdlm.models.denoiser import Denoiser, NoisyPair, Prediction
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.rng import Rng

V, L, D, H = 7, 2, 3, 4
MEAN, STD = torch.tensor([1.0, -2.0, 0.0]), torch.tensor([0.03, 1.0, 40.0])


class Repeats(Denoiser):
    """Answers with the noised latent itself and uniform logits."""

    def __init__(self):
        super().__init__()
        self.vocab_size, self.latent_len, self.latent_dim, self.hidden_size = V, L, D, H
        self.bias = nn.Parameter(torch.zeros(V))

    def forward(self, pair: NoisyPair) -> Prediction:
        rows = pair.text.shape if pair.logits_at is None else (int(pair.logits_at.sum()),)
        return Prediction(self.bias.expand(*rows, V), pair.latent, torch.zeros(*pair.text.shape, H))


def model(predicts: str = "v_param") -> TextLatentDiffusion:
    text, latent = MaskedDiffusion(mask_id=V), GaussianDiffusion(predicts=predicts)
    return TextLatentDiffusion(Repeats(), text, latent, None, MEAN, STD, eos_id=0, identity={"tokenizer": "byte"})


def pair(rows: int = 3, t: float = 0.5) -> NoisyPair:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([2, 5, 4])[:rows]
    return NoisyPair(
        text=torch.randint(0, V, (rows, 5), generator=generator),
        t_text=torch.full((rows,), t),
        latent=torch.randn(rows, L, D, generator=generator),
        t_latent=torch.full((rows,), t),
        attention_mask=torch.arange(5) < lengths[:, None],
    )


def test_standardised_latents_have_mean_zero_and_unit_variance():
    """Trap: latents not standardised (a unit-norm embedding has std 1/32 at 1024 dimensions)."""
    raw = MEAN + STD * torch.randn(5000, L, D, generator=torch.Generator().manual_seed(0))
    z = model().standardise(raw)
    assert float(z.mean(dim=(0, 1)).abs().max()) < 0.05
    assert float((z.std(dim=(0, 1)) - 1).abs().max()) < 0.05


def test_standardising_is_undone():
    raw = MEAN + STD * torch.randn(10, L, D)
    torch.testing.assert_close(model().unstandardise(model().standardise(raw)), raw, rtol=1e-5, atol=1e-5)


def test_a_plain_vector_becomes_one_latent_token():
    assert model().standardise(torch.zeros(4, D)).shape == (4, 1, D)
    assert model().standardise(torch.zeros(4, D, dtype=torch.float16)).dtype == torch.float32


def test_a_latent_of_another_width_is_refused():
    with pytest.raises(ValueError, match="1024 dimensions, the model 3"):
        model().standardise(torch.zeros(2, 1, 1024))


def test_the_statistics_travel_with_the_weights():
    """Trap: statistics missing at sampling."""
    saved = io.BytesIO()
    torch.save(model().state_dict(), saved)
    other = TextLatentDiffusion(Repeats(), MaskedDiffusion(mask_id=V), GaussianDiffusion(), None, torch.zeros(D), torch.ones(D), eos_id=0)
    saved.seek(0)
    other.load_state_dict(torch.load(saved, weights_only=True), strict=True)
    assert torch.equal(other.latent_mean, MEAN)
    assert torch.equal(other.latent_std, STD)
    assert not any(parameter is other.latent_mean for parameter in other.parameters())


def test_a_mask_inside_the_vocabulary_is_our_mistake():
    with pytest.raises(AssertionError):
        TextLatentDiffusion(Repeats(), MaskedDiffusion(mask_id=V - 1), GaussianDiffusion(), None, MEAN, STD, eos_id=0)
    with pytest.raises(AssertionError):
        TextLatentDiffusion(Repeats(), MaskedDiffusion(mask_id=V), GaussianDiffusion(), None, MEAN[:1], STD, eos_id=0)


@pytest.mark.parametrize("predicts", PARAMETERIZATIONS)
def test_every_parameterisation_is_read_as_a_clean_latent(predicts):
    """Trap: x0 and epsilon mixed up."""
    joint, z0 = model(predicts), torch.randn(3, L, D)
    question = pair()
    question = question.at(latent=joint.latent_process.noise(z0, question.t_latent, Rng(0, 0, torch.arange(3))))
    said = joint.latent_process.from_x0(z0, question.latent, question.t_latent)
    answer = Prediction(torch.zeros(3, 5, V), said, torch.zeros(3, 5, H))
    torch.testing.assert_close(joint.x0_latent(answer, question), z0, rtol=1e-4, atol=1e-4)
    half = Prediction(answer.text_logits, said.bfloat16(), answer.hidden)
    assert joint.x0_latent(half, question).dtype == torch.float32


def test_epsilon_at_the_prior_is_refused_not_exploded():
    question = pair(t=1.0)
    with pytest.raises(ValueError, match="v_param"):
        model("epsilon").x0_latent(model("epsilon")(question), question)


def test_dropping_the_text_masks_real_positions_and_nothing_else():
    question = pair(t=0.25)
    dropped = model().without_text(question, Rng(0, 0, torch.arange(3)))
    assert (dropped.text[question.attention_mask] == V).all()
    assert torch.equal(dropped.text[~question.attention_mask], question.text[~question.attention_mask])
    assert (dropped.t_text == 1).all()
    assert dropped.t_text.dtype == torch.float32
    assert torch.equal(dropped.latent, question.latent)
    assert torch.equal(dropped.t_latent, question.t_latent)


def test_dropping_the_latent_is_noise_of_the_rows_own():
    question, rng = pair(t=0.25), Rng(0, 0, torch.arange(3))
    dropped = model().without_latent(question, rng)
    assert dropped.latent.shape == question.latent.shape
    assert (dropped.t_latent == 1).all()
    assert torch.equal(dropped.text, question.text)
    assert torch.equal(dropped.t_text, question.t_text)
    other = model().without_latent(question.at(latent=question.latent + 5), rng)
    assert torch.equal(other.latent, dropped.latent), "nothing of the condition is left"
    alone = Rng(0, 0, torch.tensor([2]))
    assert torch.equal(model().without_latent(pair(), alone).latent[0], dropped.latent[2])
    assert not torch.equal(dropped.latent, model().latent_process.prior((3, L, D), rng)), "not the noise a sampler starts from"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("clock", ["t_text", "t_latent"])
def test_a_clock_in_another_precision_is_our_mistake(clock, dtype):
    """Trap: half-precision time values."""
    with pytest.raises(AssertionError, match="float32"):
        pair().at(**{clock: torch.full((3,), 0.5, dtype=dtype)})


def test_sizes_come_from_the_denoiser():
    joint = model()
    assert joint.latent_shape == (L, D)
    assert joint.mask_id == V
    assert joint.device == torch.device("cpu")
    assert joint.identity == {"tokenizer": "byte"}
