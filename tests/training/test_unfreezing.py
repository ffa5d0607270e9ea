"""Gradual unfreezing: bit-identical until the threshold, training from the very next step, also under accumulation and resume."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pretrained_world import random_weights
from training_world import assembly, data_folder, digests, events_of, lines, log_of, train

from lgdlm.data.vocabulary_tokenizer import byte_tokenizer
from lgdlm.errors import InputError
from lgdlm.models.pretrained_layout import Sizes
from lgdlm.training.assemble import Assembly
from lgdlm.training.checkpoint import AVERAGES, OPTIMIZER, WEIGHTS, read_tensors

AFTER = 3
STAGE2 = ("loss.loss_type=stage2_variational", "model.latent_encoder_type=mlp", "data.use_external_latents=false")
# film: behind AdaLN-Zero's closed gates some gradients are zero in the first step
WAITING = (
    *STAGE2,
    "model.time_conditioning=film",
    f"training.unfreeze_after_steps={AFTER}",
    "training.unfreeze_patterns=[denoiser.blocks, text_head]",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_folder(tmp_path_factory.mktemp("data"))


def state(parts: Assembly) -> dict[str, torch.Tensor]:
    """Weights, averages and moments by name."""
    weights = {f"weight {name}": p.detach().clone() for name, p in parts.model.named_parameters()}
    averages = {f"average {name}": x.clone() for name, x in parts.train_step.ema.average.items()}
    return weights | averages | {name: x.clone() for name, x in parts.train_step.optimizers.tensors().items()}


def waits(name: str) -> bool:
    return "denoiser.blocks" in name or "text_head" in name


def course(parts: Assembly, steps: int) -> list[dict[str, torch.Tensor]]:
    """The state before step 1 and after each step."""
    states = [state(parts)]
    for k in range(1, steps + 1):
        parts.train_step(parts.loader.step(k), k, 1.0)
        states.append(state(parts))
    return states


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("micro", [1, 4])
def test_what_waits_keeps_every_bit_and_then_trains(data: Path, tmp_path: Path, optimizer: str, micro: int) -> None:
    parts = assembly(
        data, tmp_path, *WAITING, f"optimizer.name={optimizer}", "optimizer.weight_decay=0.5",
        f"training.train_batch_size={8 // micro}", f"training.gradient_accumulation_steps={micro}",
    )  # fmt: skip
    before, *states = course(parts, AFTER + 1)
    held = [name for name in before if waits(name)]
    assert 0 < len(held) < len(before)
    for step, now in enumerate(states, 1):
        changed = {name for name in held if not torch.equal(now[name], before[name])}
        if step <= AFTER:
            assert not changed, f"step {step}"
            assert not any(waits(name) and "|" in name for name in now), "nobody kept moments of what waits"
        else:
            assert {name for name in held if name.startswith("weight")} <= changed, "thawed exactly behind the threshold"
            assert any(waits(name) and "|" in name for name in now)
    moving = {name for name in before if name.startswith("weight posterior")}
    assert moving
    assert all(not torch.equal(states[0][name], before[name]) for name in moving), "what does not wait trains from the first step"


def test_the_first_update_of_what_waited_is_a_first_update(data: Path, tmp_path: Path) -> None:
    """Its moments count from its own first step: the same gradient moves it as far as a parameter's first step does."""
    parts = assembly(data, tmp_path, *WAITING)
    states = course(parts, AFTER + 2)
    counts = {name: float(x) for name, x in states[-1].items() if name.endswith("|step")}
    assert {value for name, value in counts.items() if waits(name)} == {2.0}
    assert {value for name, value in counts.items() if name.startswith("posterior")} == {AFTER + 2.0}


def test_without_patterns_stage_2_begins_alone(data: Path, tmp_path: Path) -> None:
    parts = assembly(data, tmp_path, *STAGE2, f"training.unfreeze_after_steps={AFTER}", "model.latent_prior_type=learned_gaussian")
    before, *states = course(parts, AFTER + 1)
    own = {name for name in before if name.startswith(("weight posterior", "weight prior"))}
    for now in states[:AFTER]:
        assert {name for name in before if name.startswith("weight") and not torch.equal(now[name], before[name])} == own
    assert any(not torch.equal(states[AFTER][name], before[name]) for name in before if name.startswith("weight denoiser.blocks"))


def test_killed_and_resumed_at_either_side_is_never_killed(data: Path, tmp_path: Path) -> None:
    """The threshold lies between two checkpoints, on one, and in front of both."""
    for after in (4, 6, 9):
        waiting = (f"training.unfreeze_after_steps={after}", "training.unfreeze_patterns=[denoiser]")
        options = (*STAGE2, *waiting, "training.save_every_n_steps=6", "logging.eval_freq=6", "training.lr_schedule=constant")
        whole, cut = tmp_path / f"whole{after}", tmp_path / f"cut{after}"
        assert train(data, whole, *options, "training.num_train_steps=12") == 0
        assert train(data, cut, *options, "training.num_train_steps=6") == 0
        assert train(data, cut, *options, "training.num_train_steps=12", "training.resume=auto") == 0
        one, other = whole / "run", cut / "run"
        assert digests(one / "step_00000012") == digests(other / "step_00000012")
        assert log_of(one) == log_of(other)
        [event] = events_of(one, "parameters_thawed")
        assert event["step"] == after + 1
        assert [e["step"] for e in events_of(other, "parameters_thawed")] == [after + 1]


def test_what_stage_1_learned_waits_under_accumulation_and_a_restart(data: Path, tmp_path: Path) -> None:
    """Bit for bit Stage I's averaged weights in every checkpoint up to the threshold, and no longer in the next."""
    assert train(data, tmp_path / "one", "model.time_conditioning=film", "training.num_train_steps=3") == 0
    stage1 = {name: x for name, x in read_tensors(tmp_path / "one/run/step_00000003", AVERAGES).items() if waits(name)}
    words = (*WAITING, f"model.checkpoint_path={tmp_path / 'one/run'}", "training.train_batch_size=4", "training.keep_checkpoints=9")
    words = (*words, "training.gradient_accumulation_steps=2", "training.save_every_n_steps=1", "training.lr_schedule=constant")
    for steps in (AFTER - 1, AFTER + 1):
        assert train(data, tmp_path / "two", *words, f"training.num_train_steps={steps}", "training.resume=auto") == 0
    assert stage1
    for step in range(1, AFTER + 2):
        now = read_tensors(tmp_path / f"two/run/step_{step:08d}", WEIGHTS)
        assert all(torch.equal(now[name], x) for name, x in stage1.items()) == (step <= AFTER), step


def test_a_checkpoint_holds_what_waits_without_moments(data: Path, tmp_path: Path) -> None:
    assert train(data, tmp_path, *WAITING, "training.num_train_steps=3") == 0
    saved = tmp_path / "run" / "step_00000003"
    assert not any(waits(name) for name in read_tensors(saved, OPTIMIZER))
    weights, averages = read_tensors(saved, WEIGHTS), read_tensors(saved, AVERAGES)
    for name in (n for n in averages if waits(n)):
        assert torch.equal(weights[name], averages[name])


def test_the_share_that_trains_is_logged(data: Path, tmp_path: Path) -> None:
    assert train(data, tmp_path, *WAITING, "training.num_train_steps=5") == 0
    shares = [record["active_params_ratio"] for record in lines(tmp_path / "run" / "training_log.jsonl")]
    assert len(set(shares[:AFTER])) == len(set(shares[AFTER:])) == 1
    assert 0 < shares[0] < shares[-1] <= 1


def test_a_pattern_thaws_what_a_pretrained_backbone_froze(data: Path, tmp_path: Path) -> None:
    """And nothing but that: freeze_backbone holds the rest. The old spelling of a name is understood."""
    sizes = Sizes(vocab_size=256, hidden_size=32, n_blocks=2, head_size=16, ffn_size=48, ranks={"w": 4, "a": 4, "v": 4, "g": 4})
    torch.save(random_weights(sizes), tmp_path / "w.pth")
    byte_tokenizer().save(tmp_path)
    (tmp_path / "run").mkdir()
    words = ("model=rwkv7", "model.n_heads=0", f"model.rwkv_local_path={tmp_path / 'w.pth'}", "training.unfreeze_after_steps=1")
    parts = assembly(data, tmp_path, *words, 'training.unfreeze_patterns=["rwkv.*time_mix"]')
    before, first, second = course(parts, 2)
    changed = {name for name in before if name.startswith("weight") and not torch.equal(second[name], before[name])}
    thawed = {name for name in changed if name.startswith("weight denoiser.backbone") and ".att." in name}
    assert thawed
    assert all(torch.equal(first[name], before[name]) for name in thawed)
    assert not any(".ffn." in name or "embedding.table" in name for name in changed)


REFUSED = {
    "a pattern without a match": (f"training.unfreeze_after_steps={AFTER}", "training.unfreeze_patterns=[blocks, attn]", "attn"),
    "no expression": (f"training.unfreeze_after_steps={AFTER}", "training.unfreeze_patterns=['(']", "regular expression"),
    "patterns that never thaw": ("training.seed=1", "training.unfreeze_patterns=[blocks]", "unfreeze_after_steps"),
    "nothing left": (f"training.unfreeze_after_steps={AFTER}", "training.unfreeze_patterns=['.']", "nothing would train"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(data: Path, tmp_path: Path, case: str) -> None:
    *words, named = REFUSED[case]
    with pytest.raises(InputError, match="training.unfreeze") as refused:
        assembly(data, tmp_path, *STAGE2, *words)
    assert named in refused.value.message


def test_a_stage_1_run_without_patterns_has_nothing_to_train(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing would train"):
        assembly(data, tmp_path, "loss.loss_type=l2t", f"training.unfreeze_after_steps={AFTER}")


def test_parts_thaw_one_after_another_by_steps_and_epochs(data: Path, tmp_path: Path) -> None:
    schedule = "[{patterns: [text_head], steps: 2}, {patterns: [latent_head], epochs: 1}]"
    words = ("loss.loss_type=unconditional", "model.time_conditioning=film", f"training.unfreeze_schedule={schedule}")
    parts = assembly(data, tmp_path, *words, "training.train_batch_size=16", "training.backbone_unfreeze_epoch=1")
    epoch = parts.loader.steps_per_epoch
    before, *states = course(parts, epoch + 1)
    assert epoch > 2
    for step, now in enumerate(states, 1):
        changed = {
            name.removeprefix("weight ") for name in before if name.startswith("weight") and not torch.equal(now[name], before[name])
        }
        assert any("text_head" in name for name in changed) == (step > 2), step
        assert any("latent_head" in name for name in changed) == (step > epoch), step
        assert any("denoiser.blocks" in name for name in changed) == (step > epoch), step
        assert any("denoiser.embedding" in name for name in changed), "what no stage names trains from the first step"


def test_every_thaw_of_a_schedule_is_an_event_and_survives_a_restart(data: Path, tmp_path: Path) -> None:
    schedule = "[{patterns: [text_head], steps: 2}, {patterns: [denoiser.blocks], steps: 5}]"
    options = (f"training.unfreeze_schedule={schedule}", "training.save_every_n_steps=4", "training.lr_schedule=constant")
    assert train(data, tmp_path / "whole", *options, "training.num_train_steps=8") == 0
    assert train(data, tmp_path / "cut", *options, "training.num_train_steps=4") == 0
    assert train(data, tmp_path / "cut", *options, "training.num_train_steps=8", "training.resume=auto") == 0
    one, other = tmp_path / "whole/run", tmp_path / "cut/run"
    assert digests(one / "step_00000008") == digests(other / "step_00000008")
    events = events_of(one, "parameters_thawed")
    assert [event["step"] for event in events] == [3, 6] == [event["step"] for event in events_of(other, "parameters_thawed")]
    assert events[0]["parameters"] != events[1]["parameters"]


def test_named_twice_it_waits_for_the_last(data: Path, tmp_path: Path) -> None:
    schedule = "[{patterns: [blocks.0], steps: 1}, {patterns: [blocks], steps: 3}]"
    parts = assembly(data, tmp_path, "loss.loss_type=l2t", f"training.unfreeze_schedule={schedule}")
    freezer = parts.train_step.freezer
    assert set(freezer.after.values()) == {3}
    assert [step for step in range(1, 9) if freezer.thaws_at(step)] == [4]


SCHEDULES = {
    "no end": ("[{patterns: [blocks]}]", "either steps or epochs"),
    "two ends": ("[{patterns: [blocks], steps: 2, epochs: 1}]", "either steps or epochs"),
    "nobody": ("[{steps: 2}]", "has patterns"),
    "no match": ("[{patterns: [attn], steps: 2}]", "matches no parameter"),
    "everybody": ("[{patterns: ['.'], steps: 2}]", "nothing would train"),
}


@pytest.mark.parametrize("case", SCHEDULES)
def test_refused_schedules(data: Path, tmp_path: Path, case: str) -> None:
    schedule, named = SCHEDULES[case]
    with pytest.raises(InputError, match="training.unfreeze") as refused:
        assembly(data, tmp_path, "loss.loss_type=l2t", f"training.unfreeze_schedule={schedule}")
    assert named in refused.value.message
