"""Every old import with its documented shapes, each held to the core that is behind it."""

from __future__ import annotations

import inspect
import math
import sys

import pytest
import torch
from documented import ROOT

from lgdlm.errors import InputError
from lgdlm.models.denoiser import NoisyPair
from lgdlm.models.language_model import LanguageModel, language_model
from lgdlm.models.pretrained import read_pretrained

if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from latentDLM_mmdit.continuous_diffusion import ContinuousDiffusion
from latentDLM_mmdit.diffusion_process import MaskedDiffusion
from latentDLM_mmdit.improved_trainer_stable import MultimodalDiffusionTrainer_new
from latentDLM_mmdit.models.multimodal_mmdit import MultimodalMMDiT
from rwkv_diffusion_rnn.models.latent_modules import LatentPrior, TextLatentEncoder, kl_divergence, reparameterize
from rwkv_diffusion_rnn.models.rwkv_denoiser import BlockCausalRWKV, MultimodalRWKVDenoiser
from rwkv_diffusion_rnn.sampling import sample_joint, sample_latent_from_text, sample_text_from_latent

V, D, B, N = 20, 6, 3, 8
MMDIT = {
    "model": {
        "type": "multimodal_mmdit", "hidden_size": 32, "n_blocks": 1, "n_heads": 2, "cond_dim": 1024, "max_seq_len": 16, "dropout": 0.0,
        "num_residual_streams": 2, "qk_rmsnorm": True, "use_multimodal": True, "cluster_size": 0, "latent_timesteps": 1000,
        "latent_beta_schedule": "cosine", "latent_parameterization": "v_param", "p_uniform": 0.0, "t_eps": 1e-4,
    },
    "training": {"seed": 1, "world_size": 1, "cfg_dropout_prob": 0.0},
    "loss": {"loss_type": "l2t", "loss_scale": 1.0, "reduction": "tokenmean"},
}  # fmt: skip
RWKV = {"model": {"type": "rwkv_diffusion_rnn", "hidden_size": 64, "n_blocks": 2, "n_heads": None, "kernel": "chunked", "max_seq_len": 16}}


# as the earlier systems documented them; what has no default there may have one here
SIGNATURES = [
    (MultimodalMMDiT, "config, vocab_size, latent_dim=1024, cluster_size=0"),
    (MultimodalRWKVDenoiser, "config, rwkv_model, vocab_size, latent_dim, cluster_size=0"),
    (MultimodalMMDiT.forward, "self, text_tokens, latents, text_timesteps, latent_timesteps, attention_mask=None"),
    (MultimodalRWKVDenoiser.forward, "self, text_tokens, latents, text_timesteps, latent_timesteps, attention_mask=None"),
    (BlockCausalRWKV.forward, "self, blocks, state_in, rwkv_f, rwkv_b"),
    (ContinuousDiffusion, "num_timesteps=1000, beta_schedule, beta_start, beta_end, parameterization, device"),
    (ContinuousDiffusion.add_noise, "self, x0, t, noise=None"),
    (ContinuousDiffusion.predict_x0_from_eps, "self, xt, t, eps"),
    (ContinuousDiffusion.predict_x0_from_v, "self, xt, t, v"),
    (ContinuousDiffusion.ddim_step, "self, xt, t, t_prev, pred, eta=0.0"),
    (MaskedDiffusion, "tokenizer"),
    (MaskedDiffusion.sample_zt, "self, ids, t"),
    (MultimodalDiffusionTrainer_new, "model, tokenizer, text_noise_schedule, dtype, config"),
    (MultimodalDiffusionTrainer_new.forward, "self, batch, step=None"),
    (TextLatentEncoder, "hidden_size, latent_dim, dropout=0.0"),
    (LatentPrior, "latent_dim, prior_type"),
    (LatentPrior.forward, "self, batch_size, device"),
    (kl_divergence, "mu_q, logvar_q, mu_p, logvar_p"),
    (reparameterize, "mu, logvar"),
    (sample_text_from_latent, "model, latent, seq_len"),
    (sample_latent_from_text, "model, input_ids, latent_dim, num_steps, guidance_scale"),
    (sample_joint, "model, batch_size, seq_len, latent_dim"),
]


@pytest.mark.parametrize(("what", "documented"), SIGNATURES, ids=lambda x: getattr(x, "__qualname__", ""))
def test_a_signature_is_the_documented_one(what, documented):
    found = list(inspect.signature(what).parameters.values())
    expected = [word.partition("=")[::2] for word in documented.split(", ")]
    assert [p.name for p in found[: len(expected)]] == [name for name, _ in expected]
    assert [repr(p.default) for p, (_, default) in zip(found, expected, strict=False) if default] == [d for _, d in expected if d]
    for p in found[len(expected) :]:
        assert p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD), f"{p.name} is demanded, and was not before"


def networks():
    return {"mmdit": MultimodalMMDiT(MMDIT, V, latent_dim=D), "rwkv": MultimodalRWKVDenoiser(RWKV, None, V, D)}


def question(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, V + 1, (B, N), generator=generator), torch.randn(B, D, generator=generator), torch.rand(B, generator=generator)


def off_zero(network):
    """Outputs that start at zero would agree whatever the input."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.05)
    return network.eval()


@pytest.mark.parametrize("name", ["mmdit", "rwkv"])
def test_a_network_answers_in_the_documented_shapes(name):
    network = off_zero(networks()[name])
    text, latent, t = question()
    logits, predicted = network(text, latent, t, 1 - t, torch.ones(B, N))
    assert (logits.shape, predicted.shape) == ((B, N, V), (B, 1, D))
    same = network(text, latent[:, None], t, 1 - t)
    assert torch.equal(logits, same[0]), "a latent [B, D] is [B, 1, D], and no mask is a mask of ones"
    seen = torch.ones(B, N, dtype=torch.bool)
    seen[:, 5:] = False
    short = network(text[:, :5], latent, t, 1 - t)[0]
    assert torch.allclose(network(text, latent, t, 1 - t, seen)[0][:, :5], short, atol=1e-5), "padding changes nothing"


@pytest.mark.parametrize("name", ["mmdit", "rwkv"])
def test_a_network_is_the_denoiser_behind_it(name):
    network = off_zero(networks()[name])
    text, latent, t = question()
    pair = NoisyPair(text, t, latent[:, None], torch.zeros(B), torch.ones(B, N, dtype=torch.bool))
    expected = network.diffusion(pair)
    found = network(text, latent, t, None)
    assert torch.equal(found[0], expected.text_logits), "no time is time 0: clean"
    assert torch.equal(found[1], expected.latent)
    assert torch.equal(network(text, latent, t, torch.full((B,), 499))[0], network(text, latent, t, torch.full((B,), 0.5))[0])
    assert not torch.equal(network(text, latent, t, torch.full((B,), 1))[0], network(text, latent, t, torch.ones(B))[0])


@pytest.mark.parametrize("name", ["mmdit", "rwkv"])
def test_a_text_may_be_rows_of_embeddings(name):
    """The documented alternative to tokens: of a network whose texts are noised as such rows."""
    own = {"text_process": "embedding", "embedding_dim": 8}
    config = {"model": {**(MMDIT if name == "mmdit" else RWKV)["model"], **own}, "loss": {"text_weighting": "uniform"}}
    network = off_zero(MultimodalMMDiT(config, V, D) if name == "mmdit" else MultimodalRWKVDenoiser(config, None, V, D))
    _, latent, t = question()
    rows = torch.randn(B, N, 8, generator=torch.Generator().manual_seed(3))
    logits, predicted = network(rows, latent, t, None)
    expected = network.diffusion(NoisyPair(rows, t, latent[:, None], torch.zeros(B), torch.ones(B, N, dtype=torch.bool)))
    assert (logits.shape, predicted.shape) == ((B, N, V), (B, 1, D))
    assert torch.equal(logits, expected.text_logits)
    assert torch.equal(predicted, expected.latent)
    with pytest.raises(ValueError, match="text_process=embedding"):
        networks()[name](rows, latent, t, None)


def test_a_configuration_object_of_any_kind_is_read():
    omegaconf = pytest.importorskip("omegaconf")
    direct = MultimodalMMDiT(MMDIT, V, D).config
    assert MultimodalMMDiT(omegaconf.OmegaConf.create(MMDIT), V, D).config == direct
    assert MultimodalMMDiT(MMDIT["model"], V, D).config.model == direct.model, "the group alone"
    assert MultimodalMMDiT(direct, V, D).config == direct


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"model": {"type": "rwkv_diffusion_rnn"}}, "model.type"),
        ({"model": {"hidden_sizes": 3}}, "model.hidden_sizes"),
        ({"model": {"latent_dim": D + 1}}, "model.latent_dim"),
        ({"model": {"p_uniform": 0.1}}, "model.p_uniform"),
        ({"model": {"hidden_size": 1024, "n_heads": 24}}, "model"),
        (3, "config"),
    ],
)
def test_a_configuration_that_cannot_be_built_names_its_key(config, field):
    with pytest.raises(InputError) as refused:
        MultimodalMMDiT(config, V, D)
    assert refused.value.field == field


def test_clusters_are_refused():
    with pytest.raises(ValueError, match="clusters"):
        MultimodalMMDiT(MMDIT, V, D, cluster_size=4)


def test_a_given_rwkv_model_is_adopted(tmp_path):
    from pretrained_world import random_weights

    from lgdlm.models.pretrained_layout import Sizes

    sizes = Sizes(vocab_size=V, hidden_size=64, n_blocks=2, head_size=64, ffn_size=128, ranks={"w": 8, "a": 8, "v": 8, "g": 8})
    torch.save(random_weights(sizes), tmp_path / "w.pth")
    weights = read_pretrained(tmp_path / "w.pth")
    plain = {"type": "rwkv_diffusion_rnn", "kernel": "chunked", "max_seq_len": 16}
    adopted = [MultimodalRWKVDenoiser(plain, given, V, D) for given in (weights, tmp_path / "w.pth", module(weights))]
    for network in adopted:
        assert network.adopted.parity_error < 1e-3
        assert torch.equal(network.diffusion.denoiser.embedding.table.weight[:V], weights.tensors["emb.weight"].float())
        assert not network.diffusion.denoiser.embedding.table.weight.requires_grad, "freeze_backbone is the default"
    assert MultimodalRWKVDenoiser({**plain, "freeze_backbone": False}, weights, V - 3, D).diffusion.denoiser.vocab_size == V - 3
    with pytest.raises(ValueError, match="token rows"):
        MultimodalRWKVDenoiser(plain, weights, V + 1, D)


def module(weights) -> LanguageModel:
    """A module whose tensors have published names."""
    found = language_model(weights.tensors, weights.sizes)
    names = set(found.state_dict())
    if names == set(weights.tensors):
        return found
    holder = torch.nn.Module()
    for name, tensor in weights.tensors.items():
        *path, last = name.split(".")
        node = holder
        for part in path:
            if part not in dict(node.named_children()):
                node.add_module(part, torch.nn.Module())
            node = getattr(node, part)
        node.register_parameter(last, torch.nn.Parameter(tensor.float()))
    return holder


def test_two_stacks_over_blocks():
    """With running sums as networks the answer is known."""
    text = torch.arange(1.0, 2 * 10 + 1).view(2, 10)

    def ahead(block, state):
        sums = block.cumsum(1)[..., None] + (0 if state is None else state)
        return sums, sums[:, -1:]

    blocks = list(text.split(4, dim=1))
    hidden, state = BlockCausalRWKV(4)(blocks, None, ahead, lambda block, _: ahead(block, None))
    backward = torch.cat([block.flip(1).cumsum(1).flip(1) for block in blocks], dim=1)
    assert hidden.shape == (2, 10, 1)
    assert torch.equal(hidden[..., 0], text.cumsum(1) + backward)
    assert torch.equal(state[:, 0, 0], text.sum(1))
    later, _ = BlockCausalRWKV()(blocks[1:], blocks[0].sum(1)[:, None, None], ahead, None)
    assert torch.equal(later[..., 0], text.cumsum(1)[:, 4:]), "a state goes on where a text was cut"
    with pytest.raises(ValueError, match="blocks of 4"):
        BlockCausalRWKV(4)([text[:, :3], text[:, 3:]], None, ahead, None)


@pytest.mark.parametrize("predicts", ["v_param", "x0", "epsilon"])
@pytest.mark.parametrize("schedule", ["cosine", "linear", "sigmoid"])
def test_noise_is_taken_away_again(schedule, predicts):
    process = ContinuousDiffusion(1000, schedule, 1e-4, 0.02, predicts, "cpu")
    x0, noise, t = torch.randn(5, 1, D).double(), torch.randn(5, 1, D).double(), torch.linspace(0.1, 0.9, 5)
    x_t, target = process.add_noise(x0, t, noise)
    assert torch.allclose(process.predict_x0_from_eps(x_t, t, noise), x0)
    alpha, sigma = process.process.scales(t, x0)
    assert torch.allclose(x_t, alpha * x0 + sigma * noise)
    assert torch.allclose(process.predict_x0_from_v(x_t, t, alpha * noise - sigma * x0), x0)
    assert torch.allclose(process.ddim_step(x_t, t, torch.zeros(5), target), x0), "the truth is followed home in one step"
    half = process.ddim_step(x_t, t, t / 2, target)
    assert torch.allclose(half, process.add_noise(x0, t / 2, noise)[0]), "and keeps its noise on the way"


def test_an_ancestral_step_has_the_law_of_the_earlier_time():
    """eta = 1 and the truth about x_t: what comes out is distributed as x_0 noised to that time, and is no function of x_t."""
    process, x0 = ContinuousDiffusion(), torch.full((40_000, 1), 1.5, dtype=torch.float64)
    torch.manual_seed(0)
    t, earlier = torch.full((len(x0),), 0.7), torch.full((len(x0),), 0.4)
    x_t, target = process.add_noise(x0, t)
    found = process.ddim_step(x_t, t, earlier, target, eta=1.0)
    alpha, sigma = (float(x[0]) for x in process.process.scales(earlier, x0))
    assert abs(found.mean() - 1.5 * alpha) < 0.02
    assert abs(found.std() - sigma) < 0.02
    assert not torch.equal(found, process.ddim_step(x_t, t, earlier, target, eta=1.0))


def test_an_index_is_told_by_its_dtype():
    process = ContinuousDiffusion(10)
    x0, noise = torch.randn(2, D), torch.randn(2, D)
    index, time = torch.tensor([0, 9]), torch.tensor([0.1, 1.0])
    assert torch.allclose(process.add_noise(x0, index, noise)[0], process.add_noise(x0, time, noise)[0])
    assert math.isclose(
        process.alphas_cumprod[4], process.process.scales(torch.tensor([0.5]), x0.double()[:1])[0].item() ** 2, rel_tol=1e-9
    )
    clean = process.ddim_step(
        *(process.add_noise(x0, index, noise)[0], index, torch.tensor([-1, -1]), process.add_noise(x0, index, noise)[1])
    )
    assert torch.allclose(clean, x0, atol=1e-5)
    for wrong in (torch.tensor([10]), torch.tensor([-2]), torch.tensor([1.5]), torch.tensor([5.0])):
        with pytest.raises(ValueError, match="times of dtype"):
            process.add_noise(x0[:1], wrong)


def test_an_epsilon_at_full_noise_recovers_nothing():
    process = ContinuousDiffusion(parameterization="epsilon")
    with pytest.raises(ValueError, match="near t = 1"):
        process.predict_x0_from_eps(torch.randn(2, D), torch.ones(2), torch.randn(2, D))


def test_tokens_are_masked_at_their_rate():
    class Tokenizer:
        vocab_size, mask_token_id = 30, None

    process = MaskedDiffusion(Tokenizer())
    ids = torch.arange(30).repeat(40, 100)
    noised = process.sample_zt(ids, torch.full((40,), 0.3), seed=1)
    assert ((noised == ids) | (noised == 30)).all()
    assert abs((noised == 30).float().mean() - 0.3) < 0.005
    assert torch.equal(process.sample_zt(ids, 0.0), ids)
    assert (process.sample_zt(ids, 1.0) == 30).all()
    seen = torch.zeros_like(ids)
    seen[:, :7] = 1
    assert torch.equal(process.sample_zt(ids, 1.0, seen)[:, 7:], ids[:, 7:])
    Tokenizer.mask_token_id = 29
    assert MaskedDiffusion(Tokenizer()).mask_id == 29
    with pytest.raises(ValueError, match="neither"):
        MaskedDiffusion(object())


@pytest.mark.parametrize("loss_type", ["stage1_coupling", "unconditional", "l2t", "t2l", "cycle_vae", "random"])
@pytest.mark.parametrize("home", ["loss", "training"])
def test_a_step_has_a_loss_and_numbers(loss_type, home):
    config = {**MMDIT, "loss": {}, "training": {"seed": 1}}
    config[home] = {**config[home], "loss_type": loss_type}
    network = off_zero(MultimodalMMDiT(config, V, D))
    trainer = MultimodalDiffusionTrainer_new(network, None, None, torch.float32, config)
    batch = {"input_ids": torch.randint(0, V, (4, N)), "attention_mask": torch.ones(4, N), "latent": torch.randn(4, D)}
    loss, metrics = trainer(batch, step=1)
    assert loss.requires_grad
    assert metrics
    assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())
    loss.backward()
    assert trainer(batch, step=1)[0].item() == loss.item(), "a step is a function of its number"
    trained = [name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()]
    assert any("text_head" in name for name in trained) == (trainer.schedule.at(1) != "t2l")


def test_steps_are_counted_where_none_is_given():
    trainer = MultimodalDiffusionTrainer_new(off_zero(MultimodalMMDiT(MMDIT, V, D)), None, None, "fp32", MMDIT)
    batch = {"input_ids": torch.randint(0, V, (4, N)), "latent": torch.randn(4, 1, D)}
    losses = [trainer(batch)[0].item() for _ in range(2)]
    assert losses == [trainer(batch, step)[0].item() for step in (1, 2)]
    assert losses[0] != losses[1]


def test_padding_does_not_count_in_a_loss():
    trainer = MultimodalDiffusionTrainer_new(off_zero(MultimodalMMDiT(MMDIT, V, D)), None, MaskedDiffusion(Names()), None, MMDIT)
    ids, latent = torch.randint(0, V, (4, N)), torch.randn(4, D)
    mask = torch.ones(4, N)
    mask[:, 5:] = 0
    other = torch.where(mask.bool(), ids, 3)
    losses = [trainer({"input_ids": x, "attention_mask": mask, "latents": latent}, 1)[0] for x in (ids, other)]
    assert torch.allclose(*losses)


class Names:
    vocab_size = V


@pytest.mark.parametrize(
    ("tokenizer", "noise", "dtype", "said"),
    [
        (None, None, "fp16", "bf16 or fp32"),
        (type("T", (), {"vocab_size": 3})(), None, None, "3 ids"),
        (None, "loglinear", None, "LogLinear"),
    ],
)
def test_a_trainer_that_cannot_work_says_why(tokenizer, noise, dtype, said):
    with pytest.raises(ValueError, match=said):
        MultimodalDiffusionTrainer_new(MultimodalMMDiT(MMDIT, V, D), tokenizer, noise, dtype, MMDIT)


def test_a_loss_named_twice_and_differently_is_refused():
    config = {**MMDIT, "training": {"loss_type": "t2l"}}
    with pytest.raises(InputError, match="differ"):
        MultimodalDiffusionTrainer_new(MultimodalMMDiT(MMDIT, V, D), None, None, None, config)


@pytest.mark.parametrize("name", ["mmdit", "rwkv"])
def test_samplers_take_the_old_networks(name):
    network = off_zero(networks()[name])
    z, ids = torch.randn(2, D), torch.randint(0, V, (2, 5))
    texts = sample_text_from_latent(network, z, seq_len=6, num_steps=3, temperature=1.0, top_k=5, top_p=0.9, guidance_scale=2.0)
    assert texts.tokens.shape == (2, 6)
    assert int(texts.tokens.max()) < V
    assert torch.equal(sample_text_from_latent(network, z, 6, 3, 1.0, 5, 0.9, 2.0).tokens, texts.tokens), "by place as by name"
    latent = sample_latent_from_text(network, ids, latent_dim=D, num_steps=3, guidance_scale=1.5)
    assert latent.shape == (2, 1, D)
    assert torch.equal(sample_latent_from_text(network, ids, D, 3, 1.5), latent)
    assert not torch.equal(sample_latent_from_text(network, ids, D, 3, 1.0), latent)
    joint = sample_joint(network, 2, 6, D, num_steps=3)
    assert joint.tokens.shape == (2, 6)
    assert joint.latent.shape == (2, 1, D)
    assert torch.equal(sample_joint(network, 2, 6, D, 3).latent, joint.latent)
    with pytest.raises(TypeError, match="network of the doors"):
        sample_joint(torch.nn.Linear(2, 2), 2)


def test_stage_two_has_its_parts():
    encoder = TextLatentEncoder(16, D, dropout=0.0)
    mu, logvar = encoder(torch.randn(B, N, 16))
    assert mu.shape == logvar.shape == (B, D)
    assert TextLatentEncoder(hidden_size=16, latent_dim=D)(torch.randn(B, 16))[0].shape == (B, D)
    fixed = LatentPrior(latent_dim=D, prior_type="fixed_gaussian")(B, "cpu")
    assert all(torch.equal(x, torch.zeros(B, D)) for x in fixed)
    learned = LatentPrior(D, "learned_gaussian")
    assert sum(p.numel() for p in learned.parameters()) == 2 * D
    q, p = torch.distributions.Normal(mu, (logvar / 2).exp()), torch.distributions.Normal(fixed[0], (fixed[1] / 2).exp())
    expected = torch.distributions.kl_divergence(q, p).sum(dim=1).mean()
    assert torch.allclose(kl_divergence(mu, logvar, *fixed), expected), "summed over dimensions, mean over the batch"
    torch.manual_seed(0)
    z = reparameterize(torch.full((20000, 1), 2.0), torch.full((20000, 1), math.log(0.25)))
    assert abs(z.mean() - 2) < 0.02
    assert abs(z.std() - 0.5) < 0.02
