"""Two ranks train as one process does: the same samples in every step, the same losses, the same weights but for the order of sums."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ranks_world import Job, difference, run_jobs
from training_world import data_folder, digests, events_of, lines, log_of, words

from lgdlm.training.naming import STATE

STEPS = (
    "training.num_train_steps=20",
    "training.save_every_n_steps=10",
    "training.ledger=true",
    "logging.eval_freq=10",
    "data.bucket_rows=4",
)
LAST = "step_00000020"
STAGE2 = ("model.latent_encoder_type=mlp", "model.latent_prior_type=diffusion")
CASES: dict[str, tuple[str, ...]] = {
    "random": ("loss.loss_type=random",),
    "l2t: heads that nothing uses": ("loss.loss_type=l2t",),
    "cycle_vae": ("loss.loss_type=cycle_vae", "loss.cycle_latent_sampling=gumbel_st", "loss.prior_type=moments", "loss.cycle_prob=0.7"),
    "stage2_variational": ("loss.loss_type=stage2_variational", "loss.geom_weight=0.1", "loss.free_bits=0.05", *STAGE2),
    "thawing": ("loss.loss_type=random", "training.unfreeze_after_steps=7", "training.unfreeze_patterns=[blocks]"),
    "not finite": ("loss.loss_type=random",),
}
POISONED = 5  # row of step 3: the second rank has rows 4 to 7


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Path]:
    """Every case alone (8 rows a step) and on two ranks (4 rows each)."""
    found = {(name, ranks): tmp_path_factory.mktemp(f"case{ranks}") for name in CASES for ranks in (1, 2)}
    jobs = []
    for (name, ranks), out in found.items():
        more = (*STEPS, *CASES[name], f"training.train_batch_size={8 // ranks}")
        if name == "not finite":
            more = (*more, f"training.poison_ids={poison(data)}")
        jobs.append(Job(words(data, out, *more), ranks, str(out / "stderr")))
    for job, ended in zip(jobs, run_jobs(*jobs), strict=True):
        assert set(ended.codes) == {0}, Path(f"{job.stderr}0").read_text()
    return {case: out / "run" for case, out in found.items()}


def poison(data: Path) -> str:
    """The sample that makes one step of the second rank's not finite."""
    from lgdlm.data.loader import Loader
    from lgdlm.data.paired import open_dataset

    return Loader(open_dataset(data, "train"), batch_size=8, bucket_rows=4).step(3).sample_ids[POISONED]


@pytest.mark.parametrize("name", CASES)
def test_the_same_samples_and_the_same_result(name: str, runs: dict[tuple[str, int], Path]) -> None:
    alone, both = runs[name, 1], runs[name, 2]
    assert (both / "ledger.jsonl").read_bytes() == (alone / "ledger.jsonl").read_bytes()
    for one, other in zip(log_of(alone), log_of(both), strict=True):
        assert one.keys() == other.keys()
        for key in one:
            assert other[key] == (None if one[key] is None else pytest.approx(one[key], rel=1e-5, abs=1e-6)), (one["step"], key)
    assert difference(both / LAST, alone / LAST) < 1e-5
    assert difference(both / LAST, alone / LAST, "ema") < 1e-5


def test_the_comparison_can_fail(runs: dict[tuple[str, int], Path]) -> None:
    assert difference(runs["random", 2] / LAST, runs["thawing", 1] / LAST) > 1e-3


def test_what_one_rank_cannot_use_all_skip(data: Path, runs: dict[tuple[str, int], Path]) -> None:
    for ranks in (1, 2):
        run = runs["not finite", ranks]
        skipped = events_of(run, "step_skipped")
        assert skipped
        assert all(poison(data) in event["sample_ids"] for event in skipped)
        assert [line["step"] for line in lines(run / "training_log.jsonl") if line["loss"] is None] == [e["step"] for e in skipped]
        assert json.loads((run / LAST / STATE).read_text())["skipped"] == len(skipped)


def test_one_run_directory(runs: dict[tuple[str, int], Path]) -> None:
    both = runs["random", 2]
    assert [line["step"] for line in lines(both / "training_log.jsonl")] == list(range(1, 21))
    assert len(events_of(both, "run_started")) == 1
    assert json.loads((both / LAST / "manifest.json").read_text())["world_size"] == 2
    assert sorted(p.name for p in both.iterdir()) == sorted(p.name for p in runs["random", 1].iterdir())


def test_unused_heads_have_no_moments(runs: dict[tuple[str, int], Path]) -> None:
    """Not even zeros: decay must not touch what no rank has a gradient for."""
    from safetensors.torch import load_file

    kept = [load_file(runs["l2t: heads that nothing uses", ranks] / LAST / "optimizer.safetensors").keys() for ranks in (1, 2)]
    assert kept[0] == kept[1]
    assert not any(name.startswith("denoiser.latent_head") for name in kept[0])


@pytest.fixture(scope="module")
def moved(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], Path]:
    """Runs of 10 steps on so many ranks that go on to 20 on as many or others, with the same words."""
    found = {change: tmp_path_factory.mktemp("moved") for change in ((2, 1), (1, 2), (2, 2))}
    jobs = []
    for (before, after), out in found.items():
        more = (*STEPS, *CASES["random"], f"training.train_batch_size={8 // before}", "training.lr_schedule=constant")
        jobs.append(Job(words(data, out, *more, "training.num_train_steps=10"), before, str(out / "stderr")))
        jobs.append(Job(words(data, out, *more, "training.resume=auto"), after, str(out / "stderr")))
    out = tmp_path_factory.mktemp("whole")
    more = (*STEPS, *CASES["random"], "training.train_batch_size=4", "training.lr_schedule=constant")
    jobs.append(Job(words(data, out, *more), 2, str(out / "stderr")))
    assert all(set(ended.codes) == {0} for ended in run_jobs(*jobs))
    return {**{change: out / "run" for change, out in found.items()}, (0, 0): out / "run"}


@pytest.mark.parametrize("change", [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_ranks(change: tuple[int, int], moved: dict[tuple[int, int], Path]) -> None:
    run, whole = moved[change], moved[0, 0]
    assert (run / "ledger.jsonl").read_bytes() == (whole / "ledger.jsonl").read_bytes()
    assert difference(run / LAST, whole / LAST) < 1e-5
    assert [(e["before"], e["now"], e["rows"]) for e in events_of(run, "ranks_changed")] == [(*change, 8)]


def test_with_as_many_ranks_it_is_the_same_bits(moved: dict[tuple[int, int], Path]) -> None:
    assert digests(moved[2, 2] / LAST) == digests(moved[0, 0] / LAST)
    assert log_of(moved[2, 2])[:9] == log_of(moved[0, 0])[:9]
    assert [r["loss"] for r in log_of(moved[2, 2])] == [r["loss"] for r in log_of(moved[0, 0])]
    assert not events_of(moved[2, 2], "ranks_changed")
