"""What the configuration says of times reaches every objective: the curriculum of training.noise_levels."""

from __future__ import annotations

import pytest
import torch

from lgdlm.batch import Batch
from lgdlm.config import Loss, NoiseLevel, Training
from lgdlm.errors import InputError
from lgdlm.models.denoiser import NoisyPair
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.models.prior import build_prior
from lgdlm.objectives.build import OBJECTIVES, build_objectives
from lgdlm.objectives.objective import Totals
from lgdlm.rng import Rng

B, N = 8, 6
LEVELS = [NoiseLevel(0, 0.3, 0.4), NoiseLevel(100, 0.1, 0.8)]
RANDOM = {"l2t": "text", "t2l": "latent", "unconditional": "text latent", "cycle_vae": "text latent", "stage2_variational": "text"}


def questions(model: TextLatentDiffusion, name: str, step: int, levels: list[NoiseLevel]) -> list[NoisyPair]:
    """What the objective asks the network. Without cycles and a diffusion as prior, which have times of their own."""
    model.prior = build_prior("fixed_gaussian", 4)
    training = Training(noise_levels=levels, cfg_dropout_prob=0.0)
    loss = Loss(cycle_text_weight=0.0, cycle_latent_weight=0.0)
    ids = torch.randint(1, 30, (B, N), generator=torch.Generator().manual_seed(0))
    data = Batch(ids, torch.ones_like(ids, dtype=torch.bool), torch.randn(B, 1, 4), torch.arange(B))
    asked: list[NoisyPair] = []
    hook = model.register_forward_pre_hook(lambda _, pair: asked.append(pair[0]))
    build_objectives({name}, loss, training)[name](model, data, Rng(0, step, data.rows), Totals(data.tokens, data.size))
    hook.remove()
    return asked


@pytest.mark.parametrize(("step", "low", "high"), [(1, 0.298, 0.404), (50, 0.2, 0.6), (500, 0.1, 0.8)])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_random_times_keep_to_the_levels(stage2_model: TextLatentDiffusion, name: str, step: int, low: float, high: float) -> None:
    clocks: dict[str, list[torch.Tensor]] = {"text": [], "latent": []}
    for pair in questions(stage2_model, name, step, LEVELS):
        for clock, t in (("text", pair.t_text), ("latent", pair.t_latent)):
            if t.any() and not (t == 1).all():
                clocks[clock].append(t)
    assert {clock for clock, times in clocks.items() if times} == set(RANDOM[name].split()), "else all is clean, or unknown"
    for t in (t for times in clocks.values() for t in times):
        assert low - 1e-6 <= float(t.min()) < float(t.max()) <= high + 1e-6
        assert float(t.max() - t.min()) > 0.6 * (high - low), "all of the range is visited"


def test_without_levels_all_times_are_visited(stage2_model: TextLatentDiffusion) -> None:
    (pair,) = questions(stage2_model, "l2t", 1, [])
    assert float(pair.t_text.min()) < 1 / B
    assert float(pair.t_text.max()) > 1 - 1 / B


def test_levels_that_are_no_range_name_their_key() -> None:
    with pytest.raises(InputError) as refused:
        build_objectives({"l2t"}, Loss(), Training(noise_levels=[NoiseLevel(0, 0.9, 0.1)]))
    assert refused.value.field == "training.noise_levels"
