"""Input that is unusual and right is accepted, and read as what it says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from contract.harness import Adapter, called, jsonl
from contract.odd_input import NFD, ODD
from contract.sound import DIM, World

from lgdlm.data.paired import open_dataset

EVERYTHING = [
    "latent: the other byte order", "tokens: one token", "name: emoji", "text: control characters", "text: the text of another sample",
    "list: a long field", "list: a byte order mark",
]  # fmt: skip


def test_there_are_enough_of_them() -> None:
    assert len(ODD) >= 30


@pytest.mark.parametrize("name", ODD)
def test_it_is_accepted_and_read_as_it_is(adapter: Adapter, world: World, name: str) -> None:
    odd, every = ODD[name], np.arange(12)
    sound = open_dataset(world.latent_dir, token_dir=world.token_dir, vocab_size=256)
    latents, tokens = sound.latents(every), [sound.tokens(i).tolist() for i in every]
    assert latents is not None
    odd.change(world)
    adapter.call("check", world.folder, **world.values).ended(0)
    data = open_dataset(world.latent_dir, token_dir=world.token_dir, vocab_size=256, latent_dim=DIM)
    if odd.latent is not None:
        latents[3] = np.array(odd.latent, np.float32)
    if odd.ids is not None:
        tokens[3] = odd.ids
    np.testing.assert_array_equal(data.latents(every), latents)
    assert [data.tokens(i).tolist() for i in every] == tokens


def test_everything_odd_at_once_is_trained_on(adapter: Adapter, world: World, tmp_path: Path) -> None:
    """Each on a sample of its own is too slow, so those that go together stand in one world."""
    for name in EVERYTHING:
        ODD[name].change(world)
    run = tmp_path / f"a run, {NFD} \U0001f600 = 'x' ${{y}}"
    adapter.call("train", tmp_path, "ledger", run=run, **{**world.values, "steps": 3, "save_every": 9}).ended(0)
    seen = {sample for line in jsonl(run / "ledger.jsonl") for sample in line["sample_ids"]}
    assert "\U0001f600 \U0001f1e6\U0001f1fa" in seen
    adapter.call("verify", tmp_path, checkpoint=run / "step_00000003").ended(0)


LINES = {
    "CRLF, blank lines and a byte order mark": ("a.txt", b"\xef\xbb\xbfone\r\n\r\n two \r\nthree", ["one", " two ", "three"]),
    "separators that end no line": ("b.txt", "a\u2028b\x0bc\x85d\ne".encode(), ["a\u2028b\x0bc\x85d", "e"]),
    "one character": ("c.txt", b"x", ["x"]),
    "JSONL with blank lines": ("d.jsonl", b'\n{"text": "one"}\r\n\n{"text": "two", "id": 7}', ["one", "two"]),
    "JSONL with more fields": ("e.jsonl", '{"id": "\u00e9", "text": "caf\\u00e9", "meta": [null]}'.encode(), ["caf\u00e9"]),
    "JSON": ("f.json", b'[ {"text": "one"} , {"text": "two"} ]', ["one", "two"]),
    "an ending in capitals": ("G.TXT", b"one", ["one"]),
    "a name of many signs": ("h '\"=,[x] \U0001f600.txt", b"one", ["one"]),
    "decomposed accents": ("i.txt", NFD.encode(), [NFD]),
    "a text of 1 MB": ("j.txt", b"word " * 200_000, ["word " * 200_000]),
}


@pytest.mark.parametrize("name", LINES)
def test_texts_are_prepared_as_they_are(adapter: Adapter, tmp_path: Path, name: str) -> None:
    file, content, texts = LINES[name]
    (tmp_path / file).write_bytes(content)
    adapter.call("prepare", tmp_path, text=tmp_path / file, out=tmp_path / "out").ended(0)
    made = open_dataset(tmp_path / "out", external_latents=False)
    assert sorted(made.texts) == sorted(texts)
    assert {bytes(made.tokens(i).tolist()).decode() for i in range(len(made))} == set(texts)


def test_odd_latents_and_prompts_are_sampled_from(adapter: Adapter, trained: Path, tmp_path: Path) -> None:
    latents = tmp_path / "latents"
    (latents / "below").mkdir(parents=True)
    values = np.array([0.5, -1.0, 0.25, 2.0])
    kinds = {"a b": values.astype(np.float16), "\U0001f600": values.astype(">f8"), "below/c": values[None].astype(np.float32), NFD: values}
    for name, value in kinds.items():
        np.save(latents / f"{name}.npy", value)
    prompts = [{"id": 1, "text": "x"}, {"id": "a\nb", "text": f"{NFD} \U0001f600\t\r\n"}, {"text": "no id", "more": [1]}]
    (tmp_path / "p.jsonl").write_text("\ufeff" + "\r\n".join(json.dumps(p) for p in prompts), encoding="utf-8")
    for verb, given in (("sample-l2t", {"latents": latents}), ("sample-t2l", {"prompts": tmp_path / "p.jsonl"})):
        adapter.call(verb, tmp_path, checkpoint=trained / "step_00000004", out=tmp_path / f"{verb}.jsonl", **given).ended(0)
    texts = {line["id"]: line["text"] for line in jsonl(tmp_path / "sample-l2t.jsonl")}
    assert set(texts) == set(kinds)
    assert [line["id"] for line in jsonl(tmp_path / "sample-t2l.jsonl")] == ["1", "a\nb", "p-00000002"]


def test_an_empty_file_of_configuration_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("# nothing yet\n")
    assert "data.latent_dir" in called(["train", "--config-name", "mine.yaml"], tmp_path).ended(2).line
