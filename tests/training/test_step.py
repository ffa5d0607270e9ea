"""One optimizer step: accumulation is one large batch, half precision stays inside the network, loss curves do not move."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_world import assembly, data_folder

from lgdlm.models.denoiser import NoisyPair
from lgdlm.training.weights import weights_of


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_folder(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("mode", ["l2t", "t2l", "unconditional"])
def test_accumulation_is_one_large_batch(data: Path, tmp_path: Path, mode: str) -> None:
    """8 rows at once, 4 + 4 and 2 + 2 + 2 + 2: the same samples, losses, gradients and weights."""
    common = (f"loss.loss_type={mode}", "training.cfg_dropout_prob=0.3", "optimizer.eps=0.001")
    found = []
    for rows, micro in ((8, 1), (4, 2), (2, 4)):
        parts = assembly(data, tmp_path, *common, f"training.train_batch_size={rows}", f"training.gradient_accumulation_steps={micro}")
        ids = [parts.loader.step(k).sample_ids for k in range(1, 6)]
        assert len(parts.loader.step(1).batches) >= micro
        metrics = [parts.train_step(parts.loader.step(k), k, 1.0) for k in range(1, 6)]
        found.append((ids, metrics, {name: value.clone() for name, value in weights_of(parts.model).items()}))
    (ids, metrics, weights), *others = found
    for their_ids, their_metrics, their_weights in others:
        assert their_ids == ids
        for one, other in zip(metrics, their_metrics, strict=True):
            assert other == pytest.approx(one, rel=1e-4, abs=1e-6)
        for name, value in weights.items():
            torch.testing.assert_close(their_weights[name], value, atol=1e-6, rtol=0, msg=name)


def test_half_precision_stays_inside_the_network(data: Path, tmp_path: Path) -> None:
    """Master weights, moments, averages, times and latents are float32; the matrix products are not."""
    parts = assembly(data, tmp_path, "training.dtype=bf16")
    seen: dict[str, set[torch.dtype]] = {"times": set(), "latent": set(), "hidden": set()}

    def look(module: torch.nn.Module, inputs: tuple[NoisyPair], answer: object) -> None:
        seen["times"] |= {inputs[0].t_text.dtype, inputs[0].t_latent.dtype}
        seen["latent"].add(inputs[0].latent.dtype)
        seen["hidden"].add(answer.text_logits.dtype)  # type: ignore[attr-defined]

    parts.model.denoiser.register_forward_hook(look)
    plain = assembly(data, tmp_path, "training.dtype=fp32")
    for k in range(1, 6):
        half, full = parts.train_step(parts.loader.step(k), k, 1.0), plain.train_step(plain.loader.step(k), k, 1.0)
        assert half["loss"] == pytest.approx(full["loss"], rel=0.05)
    assert seen == {"times": {torch.float32}, "latent": {torch.float32}, "hidden": {torch.bfloat16}}
    kept = {**weights_of(parts.model), **parts.train_step.optimizers.tensors(), **parts.train_step.ema.average}
    assert {value.dtype for value in kept.values()} == {torch.float32}


def test_a_step_is_a_function_of_weights_data_seed_and_step(data: Path, tmp_path: Path) -> None:
    one, two = (assembly(data, tmp_path, "model.dropout=0.3") for _ in range(2))
    torch.manual_seed(1)
    a = one.train_step(one.loader.step(3), 3, 1.0)
    torch.rand(17)
    assert two.train_step(two.loader.step(3), 3, 1.0) == a
    other = assembly(data, tmp_path, "model.dropout=0.3", "training.seed=5")
    assert other.train_step(one.loader.step(3), 3, 1.0) != a


def test_clipping_bounds_the_update_and_zero_only_measures(data: Path, tmp_path: Path) -> None:
    norms = {}
    for clip in ("0", "0.001"):
        parts = assembly(data, tmp_path, f"optimizer.grad_clip_norm={clip}")
        recorded: list[float] = []
        step = parts.train_step.optimizers.step

        def watch(scale: float, parts=parts, recorded=recorded, step=step) -> None:  # type: ignore[no-untyped-def]
            squares = [p.grad.square().sum() for p in parts.model.parameters() if p.grad is not None]
            recorded.append(float(torch.stack(squares).sum().sqrt()))
            step(scale)

        parts.train_step.optimizers.step = watch  # type: ignore[method-assign]
        norms[clip] = (parts.train_step(parts.loader.step(1), 1, 1.0)["grad_norm"], recorded[0])
    assert norms["0"][0] == pytest.approx(norms["0"][1], rel=1e-4)
    assert norms["0.001"][0] == pytest.approx(norms["0"][0], rel=1e-6), "the log tells the norm before clipping"
    assert norms["0.001"][1] == pytest.approx(0.001, rel=1e-3)
