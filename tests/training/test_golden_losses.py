"""A refactor must not move the loss: twenty steps of each denoiser on all modes, kept as text beside this test.

    step loss objective=metric ...

After a change that is meant to move them: `PYTHONPATH=tests python tests/training/test_golden_losses.py` writes the files anew.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from training_world import assembly, data_folder

GOLDEN = Path(__file__).parent.parent / "golden" / "losses"
KINDS = {
    "transformer": ("model=transformer",),
    "mmdit": ("model=mmdit",),
    "rwkv7": ("model=rwkv7", "model.n_heads=0", "model.head_size=8"),
}
STEPS = 20


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_folder(tmp_path_factory.mktemp("data"))


def losses(data: Path, kind: str, out: Path) -> list[dict[str, float]]:
    """Loss and the metrics of the step's objective, for steps 1 to STEPS of a tiny run at a visible learning rate."""
    parts = assembly(data, out, *KINDS[kind], "loss.loss_type=random", "training.warmup_steps=2", "optimizer.lr=0.01")
    found = []
    for k in range(1, STEPS + 1):
        metrics = parts.train_step(parts.loader.step(k), k, 1.0)
        kept = {name: value for name, value in metrics.items() if name == "loss" or name.endswith(("/nelbo", "/latent_loss"))}
        found.append({name: float(value) for name, value in kept.items() if value is not None})
    return found


def as_text(rows: list[dict[str, float]]) -> str:
    return "".join(f"{k} " + " ".join(f"{name}={value:.7g}" for name, value in row.items()) + "\n" for k, row in enumerate(rows, 1))


def from_text(text: str) -> list[dict[str, float]]:
    rows = [line.split()[1:] for line in text.splitlines()]
    return [{name: float(value) for name, _, value in (word.partition("=") for word in row)} for row in rows]


@pytest.mark.parametrize("kind", KINDS)
def test_the_losses_are_those_on_record(kind: str, data: Path, tmp_path: Path) -> None:
    found, expected = losses(data, kind, tmp_path), from_text((GOLDEN / f"{kind}.txt").read_text(encoding="ascii"))
    assert len(expected) == STEPS
    for k, (row, kept) in enumerate(zip(found, expected, strict=True), 1):
        assert row == pytest.approx(kept, rel=1e-4), f"step {k}"


def write() -> None:
    GOLDEN.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        data = data_folder(Path(folder) / "data")
        for kind in KINDS:
            (GOLDEN / f"{kind}.txt").write_text(as_text(losses(data, kind, Path(folder) / kind)), encoding="ascii")


if __name__ == "__main__":
    write()
