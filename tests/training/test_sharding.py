"""FSDP2: a sharded run is the run of one process, and its checkpoints are read by any number of processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from ranks_world import Job, run_jobs
from training_world import data_folder, lines, log_of, train, words

from lgdlm.cli import progress
from lgdlm.cli.__main__ import main
from lgdlm.errors import CheckpointError
from lgdlm.training.checkpoint import AVERAGES, OPTIMIZER, WEIGHTS, load_into, read_tensors, verify_checkpoint
from lgdlm.training.restore import restore

STEPS = (
    "training.num_train_steps=20", "training.save_every_n_steps=10", "training.ledger=true", "logging.eval_freq=10", "data.bucket_rows=3",
    "training.lr_schedule=constant", "model.latent_encoder_type=mlp",
    "training.mode_weights={l2t: 1, t2l: 1, cycle_vae: 1, stage2_variational: 1}",
    "training.unfreeze_after_steps=4", "training.unfreeze_patterns=['blocks.0.ffn']", "model.n_blocks=2",
)  # fmt: skip
LAST = "step_00000020"
# (ranks, sharded) of the first 10 steps and of the others; 12 rows a step in every run, which two ranks cut alike and not in groups of 3
RUNS: dict[str, tuple[tuple[int, bool], ...]] = {
    "alone": ((1, False),),
    "sharded": ((2, True),),
    "sharded, alone": ((2, True), (1, False)),
}
MORE: dict[str, tuple[tuple[int, bool], ...]] = {
    "alone": ((1, False),),
    "sharded": ((2, True),),
    "sharded, sharded": ((2, True), (2, True)),
    "alone, sharded": ((1, False), (2, True)),
    "sharded, whole on two": ((2, True), (2, False)),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return trained(RUNS, data, tmp_path_factory)


@pytest.fixture(scope="module")
def more_runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return trained(MORE, data, tmp_path_factory)


def trained(
    chosen: dict[str, tuple[tuple[int, bool], ...]], data: Path, tmp_path_factory: pytest.TempPathFactory, *more: str
) -> dict[str, Path]:
    """The runs, each by its stretches of 10 steps, or of 20."""
    outs = {name: tmp_path_factory.mktemp("run") for name in chosen}
    jobs = []
    for name, stretches in chosen.items():
        for i, (ranks, sharded) in enumerate(stretches):
            shard = ("training.shard=true",) if sharded else ()
            rows, end = f"training.train_batch_size={12 // stretches[0][0]}", 20 if i == len(stretches) - 1 else 10
            own = words(data, outs[name], *STEPS, *more, rows, *shard, f"training.num_train_steps={end}", "training.resume=auto")
            jobs.append(Job(own, ranks, str(outs[name] / "stderr")))
    for job, ended in zip(jobs, run_jobs(*jobs), strict=True):
        assert set(ended.codes) == {0}, Path(f"{job.stderr}0").read_text()
    return {name: out / "run" for name, out in outs.items()}


def distance(one: Path, other: Path, name: str) -> float:
    a, b = (read_tensors(folder, name) for folder in (one, other))
    assert a.keys() == b.keys()
    a, b = ({n: t.double().flatten() for n, t in tensors.items()} for tensors in (a, b))
    return float(torch.cat([a[n] - b[n] for n in b]).norm() / torch.cat([b[n] for n in b]).norm())


def assert_the_same_run(run: Path, alone: Path) -> None:
    assert [line["sample_ids"] for line in lines(run / "ledger.jsonl")] == [line["sample_ids"] for line in lines(alone / "ledger.jsonl")]
    for tensors in (WEIGHTS, AVERAGES):
        assert distance(run / LAST, alone / LAST, tensors) < 1e-5
    for one, other in zip(log_of(alone), log_of(run), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
        assert other["active_params_ratio"] == pytest.approx(one["active_params_ratio"], abs=1e-9)


@pytest.mark.parametrize("name", [name for name in RUNS if name != "alone"])
def test_however_it_is_taken_apart_it_is_the_same_run(name: str, runs: dict[str, Path]) -> None:
    assert_the_same_run(runs[name], runs["alone"])


@pytest.mark.nightly
@pytest.mark.parametrize("name", [name for name in MORE if name != "alone"])
def test_it_goes_on_in_any_number_of_parts(name: str, more_runs: dict[str, Path]) -> None:
    assert_the_same_run(more_runs[name], more_runs["alone"])


@pytest.mark.nightly
def test_going_on_with_as_many_shards_is_the_same_bits(more_runs: dict[str, Path]) -> None:
    for name in (WEIGHTS, AVERAGES, OPTIMIZER):
        whole, resumed = (read_tensors(more_runs[run] / LAST, name) for run in ("sharded", "sharded, sharded"))
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)


@pytest.mark.nightly
@pytest.mark.parametrize(
    "network",
    [
        ("model=mmdit",),
        ("model=rwkv7", "model.head_size=16", "model.n_heads=0"),
        (
            "model=rwkv7",
            "model.head_size=16",
            "model.n_heads=0",
            "model.causality=block_causal",
            "model.block_context=clean",
            "model.block_size=8",
            "model.length=eos",
            "loss.cycle_latent_weight=0",
        ),
    ],
)
def test_every_network_can_be_taken_apart(network: tuple[str, ...], data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Blocks hand each other states as well as rows, and gradients come back through all of them."""
    found = trained(
        {"alone": RUNS["alone"], "sharded": RUNS["sharded"]}, data, tmp_path_factory, *network, "training.unfreeze_patterns=[blocks]"
    )
    assert_the_same_run(found["sharded"], found["alone"])


def test_each_rank_writes_its_pieces_and_the_manifest_knows_them(runs: dict[str, Path]) -> None:
    folder = runs["sharded"] / LAST
    listed = set(json.loads((folder / "manifest.json").read_text())["files"])
    for name in ("model", "ema", "optimizer"):
        pieces = sorted((folder / name).iterdir())
        assert len(pieces) == 2
        assert {p.relative_to(folder).as_posix() for p in pieces} <= listed
        assert not (folder / f"{name}.safetensors").exists()
    assert not [path for path in folder.rglob("*") if path.suffix in (".metadata", ".distcp", ".pt", ".pkl")]
    assert verify_checkpoint(folder)["world_size"] == 2
    assert (runs["sharded, alone"] / LAST / WEIGHTS).exists()


def test_one_process_reads_it(runs: dict[str, Path], tmp_path: Path) -> None:
    """restore, check, sample, a warm start and `convert` need not know how it was written."""
    folder = runs["sharded"] / LAST
    model = restore(folder).model
    saved = read_tensors(folder, AVERAGES)
    assert all(torch.equal(p.detach(), saved[name]) for name, p in model.named_parameters() if name in saved)
    try:
        assert main(["check", "--quiet", f"model.checkpoint_path={folder}"]) == 0
        assert main(["sample", "--quiet", str(folder), "mode=joint", "num_samples=2", "num_steps=2", f"out={tmp_path / 'x.jsonl'}"]) == 0
    finally:
        progress._silent = False
    assert len(lines(tmp_path / "x.jsonl")) == 2


def test_a_run_starts_warm_from_it(data: Path, runs: dict[str, Path], tmp_path: Path) -> None:
    own = (*STEPS, "training.train_batch_size=12", "training.num_train_steps=1", f"model.checkpoint_path={runs['sharded'] / LAST}")
    assert train(data, tmp_path, *own) == 0


def damaged(runs: dict[str, Path], out: Path) -> Path:
    return Path(shutil.copytree(runs["sharded"] / LAST, out / LAST))


@pytest.mark.parametrize("name", ["model", "ema", "optimizer"])
def test_a_flipped_bit_in_a_piece_is_found(name: str, runs: dict[str, Path], tmp_path: Path) -> None:
    folder = damaged(runs, tmp_path)
    piece = sorted((folder / name).iterdir())[1]
    content = bytearray(piece.read_bytes())
    content[-3] ^= 4
    piece.write_bytes(content)
    with pytest.raises(CheckpointError) as refused:
        verify_checkpoint(folder)
    assert refused.value.where.endswith(f"{name}/{piece.name}")


@pytest.mark.parametrize("how", ["missing", "twice", "cut", "empty", "of another size"])
def test_pieces_that_make_no_whole_are_refused(how: str, runs: dict[str, Path], tmp_path: Path) -> None:
    """Whatever a manifest says: what a piece leaves out would be memory of before."""
    folder = damaged(runs, tmp_path)
    first, second = sorted((folder / "model").iterdir())
    if how == "missing":
        first.unlink()
    elif how == "twice":
        shutil.copyfile(first, first.with_name("shard-00003-model-00001-of-00001.safetensors"))
    elif how == "cut":
        second.write_bytes(second.read_bytes()[:-10])
    elif how == "empty":
        second.write_bytes(b"")
    else:
        shutil.copyfile(sorted((folder / "ema").iterdir())[0], second)
    with pytest.raises(CheckpointError, match="model pieces"):
        read_tensors(folder, WEIGHTS)


def test_what_the_last_piece_leaves_out_is_missed_by_the_model(runs: dict[str, Path], tmp_path: Path) -> None:
    """Of a tensor whose end is missing nothing says how long it was but the model."""
    folder = damaged(runs, tmp_path)
    model = restore(folder).model
    sorted((folder / "model").iterdir())[1].unlink()
    with pytest.raises(CheckpointError, match="expected shape|tensor is missing"):
        load_into(model, folder, averaged=False)


@pytest.mark.parametrize("words", [("optimizer.name=muon",), ("training.compile_model=true",)])
def test_what_parts_cannot_do_is_refused(words: tuple[str, ...], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(data, tmp_path, "training.shard=true", *words) == 2
    assert words[0].partition("=")[0] in capsys.readouterr().err
