"""The contract of every entry of DENOISERS: a new line in the table is tested before its author writes a test."""

from __future__ import annotations

import pytest
import torch

from lgdlm.config import MODELS
from lgdlm.models.build import DENOISERS, build_denoiser
from lgdlm.models.denoiser import Denoiser, NoisyPair
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.training.optimizer import Optimizers

V, D, N = 23, 6, 9
# networks that an entry becomes by its own keys; each keeps the same contract
VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    "rwkv7 in blocks": ("rwkv7", {"causality": "block_causal", "block_size": 4}),
    "rwkv7 in blocks, shared": ("rwkv7", {"causality": "block_causal", "block_size": 2, "share_directions": True, "fusion": "gated"}),
    "rwkv7 in clean blocks": ("rwkv7", {"causality": "block_causal", "block_size": 4, "block_context": "clean"}),
}


def tiny(name: str, **options: object) -> Denoiser:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "n_blocks": 2, "latent_dim": D, "max_seq_len": 16, "latent_prefix_len": 2}
    entry, own = VARIANTS.get(name, (name, {}))
    return build_denoiser(MODELS[entry](**{**sizes, **own, **options}), V)


def awake(net: Denoiser) -> Denoiser:
    """Every parameter off its initial value: zero gates would hide what the blocks do."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return net.eval()


def question(lengths: tuple[int, ...] = (9, 9, 9), t_text: float = 0.5, t_latent: float = 0.5) -> NoisyPair:
    g = torch.Generator().manual_seed(1)
    B = len(lengths)
    mask = torch.arange(N) < torch.tensor(lengths)[:, None]
    text = torch.randint(0, V, (B, N), generator=g)
    text[:, ::3] = V
    return NoisyPair(text, torch.full((B,), t_text), torch.randn(B, 1, D, generator=g), torch.full((B,), t_latent), mask)


@pytest.fixture(params=[*DENOISERS, *VARIANTS])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_answers_in_the_shapes_it_was_asked(name: str) -> None:
    net, pair = tiny(name), question()
    answer = net(pair)
    assert answer.text_logits.shape == (3, N, V)
    assert answer.latent.shape == (3, 1, D)
    assert answer.hidden.shape == (3, N, net.hidden_size)


def test_logits_at_chosen_positions_are_those_of_the_whole(name: str) -> None:
    net, pair = awake(tiny(name)), question()
    chosen = pair.text == V
    torch.testing.assert_close(net(pair.at(logits_at=chosen)).text_logits, net(pair).text_logits[chosen], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("t_text", [0.0, 1.0])
@pytest.mark.parametrize("t_latent", [0.0, 1.0])
def test_is_finite_at_both_ends_of_both_clocks(name: str, t_text: float, t_latent: float) -> None:
    answer = awake(tiny(name))(question(t_text=t_text, t_latent=t_latent))
    assert answer.text_logits.isfinite().all()
    assert answer.latent.isfinite().all()


def test_both_clocks_and_the_latent_reach_the_logits(name: str) -> None:
    net, pair = awake(tiny(name)), question()
    here = net(pair).text_logits
    for other in (pair.at(t_text=pair.t_text + 0.3), pair.at(t_latent=pair.t_latent + 0.3), pair.at(latent=pair.latent + 1)):
        assert not torch.allclose(net(other).text_logits, here, atol=1e-4)


def test_the_text_reaches_the_latent(name: str) -> None:
    net, pair = awake(tiny(name)), question()
    changed = pair.text.clone()
    changed[:, 1] = (changed[:, 1] + 1) % V
    assert not torch.allclose(net(pair.at(text=changed)).latent, net(pair).latent, atol=1e-5)


def test_padding_changes_nothing(name: str) -> None:
    net, pair = awake(tiny(name)), question(lengths=(9, 5, 2))
    other = torch.where(pair.attention_mask, pair.text, (pair.text + 7) % V)
    a, b = net(pair), net(pair.at(text=other))
    short = NoisyPair(pair.text[1:2, :5], pair.t_text[1:2], pair.latent[1:2], pair.t_latent[1:2], pair.attention_mask[1:2, :5])
    alone = net(short)
    torch.testing.assert_close(a.text_logits[pair.attention_mask], b.text_logits[pair.attention_mask], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(a.latent, b.latent, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(a.text_logits[1:2, :5], alone.text_logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(a.latent[1:2], alone.latent, atol=1e-5, rtol=1e-5)


def test_batch_composition_changes_nothing(name: str) -> None:
    net, pair = awake(tiny(name)), question()
    order = torch.tensor([2, 0, 1])
    mixed = NoisyPair(*(x[order] for x in (pair.text, pair.t_text, pair.latent, pair.t_latent, pair.attention_mask)))
    torch.testing.assert_close(net(mixed).text_logits, net(pair).text_logits[order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(net(mixed).latent, net(pair).latent[order], atol=1e-5, rtol=1e-5)


def test_a_gradient_reaches_every_parameter_after_one_step(name: str) -> None:
    """Zero gates keep the first step out of the blocks; the second must reach all of them."""
    net, pair = tiny(name), question()
    optimizers = Optimizers(net, lr=1e-2)
    for _ in range(2):
        optimizers.zero_grad()
        answer = net(pair)
        (answer.text_logits.square().mean() + (answer.latent - 1).square().mean()).backward()
        optimizers.step(1.0)
    starved = [key for key, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not starved


@pytest.mark.parametrize("option", ["n_heads", "qk_rmsnorm"])
def test_attention_flags_change_the_network(option: str) -> None:
    """A flag that is accepted and not used is a known fault of such networks."""
    value = {"n_heads": 4, "qk_rmsnorm": False}[option]
    for kind in ("mmdit", "transformer"):
        plain, other = awake(tiny(kind)), tiny(kind, **{option: value}).eval()
        shared = {k: v for k, v in plain.state_dict().items() if "norm_q" not in k and "norm_k" not in k}
        other.load_state_dict(shared, strict=False)
        for name, p in [*plain.named_parameters(), *other.named_parameters()]:
            if name not in shared:
                torch.nn.init.ones_(p)  # a norm's scale, where there is one: but for the flag the two are one network
        again = tiny(kind).eval()
        again.load_state_dict(plain.state_dict())
        assert torch.equal(again(question()).text_logits, plain(question()).text_logits)
        assert not torch.allclose(plain(question()).text_logits, other(question()).text_logits, atol=1e-4)


def test_the_question_of_a_masked_text_holds_no_identity(joint_model: TextLatentDiffusion) -> None:
    """Two texts that differ only under their masks give one and the same question, and one answer."""
    from lgdlm.batch import Batch
    from lgdlm.objectives.denoising import MODES, DenoisingObjective
    from lgdlm.rng import Rng

    g = torch.Generator().manual_seed(3)
    ids, rows = torch.randint(1, joint_model.mask_id, (4, 8), generator=g), torch.arange(4)
    latent = torch.randn(4, 1, joint_model.denoiser.latent_dim, generator=g)
    objective, rng = DenoisingObjective(MODES["l2t"]), Rng(0, 1, rows)
    mask = torch.ones(4, 8, dtype=torch.bool)

    def ask(tokens: torch.Tensor) -> NoisyPair:
        batch = Batch(tokens, mask, latent, rows)
        return objective.question(joint_model, batch, joint_model.standardise(latent), rng)

    asked = ask(ids).logits_at
    assert asked is not None
    assert asked.any()
    other = torch.where(asked, ids % (joint_model.mask_id - 1) + 1, ids)
    assert not torch.equal(ids, other)
    one, two = ask(ids), ask(other)
    assert torch.equal(one.text, two.text)
    assert torch.equal(joint_model(one).text_logits, joint_model(two).text_logits)
