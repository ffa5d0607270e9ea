"""A corpus hands on every different text and accounts for every other one."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgdlm.data.corpus import SOURCES, read_corpus
from lgdlm.data.given_latents import GivenLatents
from lgdlm.data.text import Text
from lgdlm.data.wikipedia import split_sentences
from lgdlm.data.wordnet import split_gloss
from lgdlm.errors import InputError


def texts(path: Path, **options) -> list[str]:
    return [text.text for text in read_corpus("file", path, **options)]


def problem(path: Path, **options) -> InputError:
    with pytest.raises(InputError) as caught:
        list(read_corpus("file", path, **options))
    return caught.value


def write_jsonl(path: Path, entries: list[dict]) -> Path:
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), encoding="utf-8")
    return path


# packaged sources


@pytest.mark.parametrize("name", SOURCES)
def test_a_packaged_source_accounts_for_every_text(name):
    corpus = read_corpus(name)
    found = list(corpus)
    counts = corpus.counts
    assert counts.kept == len(found) > 10_000
    assert counts.read == counts.kept + sum(counts.dropped.values())
    assert len({text.text for text in found}) == len(found)
    assert len({text.id for text in found}) == len(found)
    assert all(text.text == text.text.strip() != "" for text in found)
    assert {text.kind for text in found} == set(corpus.identity()["kinds"]) <= set(SOURCES[name].kinds)
    assert corpus.problems() == []
    json.dumps(corpus.identity(), allow_nan=False)


def test_wordnet_gives_the_kinds_that_are_asked_for():
    both = Counter(text.kind for text in read_corpus("wordnet"))
    definitions = {text.text for text in read_corpus("wordnet", kinds=("definition",))}
    assert len(definitions) == 116_677  # of 117,659, less those that repeat another and 20 with unpaired quotation marks
    assert 0 <= len(definitions) - both["definition"] < 20  # a few are also somebody's example
    assert both["example"] > 48_000
    assert "a general concept formed by extracting common features from specific examples" in definitions
    assert not any(text.startswith(("1 This software", "Princeton")) for text in definitions)


@pytest.mark.parametrize(
    ("gloss", "definition", "examples"),
    [
        ('not to your liking; "a disagreeable situation"  \n', "not to your liking", ["a disagreeable situation"]),
        ("sharply disagreeable; rigorous", "sharply disagreeable; rigorous", []),
        ('a workplace; as in the expression "on the job"; ', 'a workplace; as in the expression "on the job"', []),
        ('one; "first" ; "second"- Shakespeare; "third"', "one", ["first", "second", "third"]),
        ('mobilise: "the troops"', "mobilise", ["the troops"]),
        ('a report (e.g., "he said so")', 'a report (e.g., "he said so")', []),
        ("cattle: \"`moo-cow' is a child's term\"", "cattle", ["'moo-cow' is a child's term"]),
        ('first part; "example"; second part', "first part; second part", ["example"]),
    ],
)
def test_a_gloss_is_cut_at_its_examples(gloss, definition, examples):
    assert split_gloss(gloss) == (definition, examples)


def test_sentences_joined_are_the_summary_again():
    for text in list(read_corpus("wiki", kinds=("summary",)))[:500]:
        assert " ".join(split_sentences(text.text)) == text.text
    assert split_sentences("It costs 3.5 units. Dr. No came in 1962. He left? Yes! e.g. so.") == [
        "It costs 3.5 units.",
        "Dr. No came in 1962.",
        "He left?",
        "Yes! e.g. so.",
    ]


def test_bible_chapters_are_their_verses():
    verses = [text for text in read_corpus("bible") if text.id.startswith("08001")]  # Ruth 1
    chapter = next(text for text in read_corpus("bible", kinds=("chapter",)) if text.id == "08001")
    assert len(verses) == 22
    assert " ".join(verse.text for verse in verses) == chapter.text
    assert "`" not in chapter.text


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("wordnot", {}),
        ("wordnet", {"kinds": ("poem",)}),
        ("wiki", {"language": "de-de"}),
        ("wordnet", {"path": "x.txt"}),
        ("file", {"path": "x.txt", "kinds": ("sentence",)}),
    ],
)
def test_an_unknown_request_is_refused(source, options):
    with pytest.raises(InputError) as caught:
        read_corpus(source, **options)
    assert caught.value.code == "UNKNOWN_VALUE"


# the user's own files

ANY = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip)


@given(st.lists(ANY, min_size=1, unique=True))
def test_every_format_gives_back_the_texts_it_was_given(tmp_path_factory, written):
    import pyarrow
    import pyarrow.parquet

    folder = tmp_path_factory.mktemp("texts")
    entries = [{"text": text} for text in written]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(entries), folder / "a.parquet")
    (folder / "a.json").write_text(json.dumps(entries), encoding="utf-8")
    for path in (folder / "a.parquet", folder / "a.json", write_jsonl(folder / "a.jsonl", entries)):
        assert texts(path) == written


def test_a_text_file_is_a_text_a_line(tmp_path):
    path = tmp_path / "mes textes \U0001f600.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\r\n  two  \nthree\xe2\x80\xa8still three\n\n")
    corpus = read_corpus("file", path)
    assert [text.text for text in corpus] == ["one", "  two  ", "three\u2028still three"]
    assert corpus.counts.to_dict() == {"read": 5, "kept": 3, "dropped": {"blank line": 2}}


def test_repeated_texts_are_dropped_and_counted_but_keep_the_row_numbers(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in ("x", "y", "x", "z")])
    corpus = read_corpus("file", path)
    for _ in range(2):  # a second pass reads and counts anew
        assert [(text.text, text.row, text.id) for text in corpus] == [
            ("x", 0, "a-00000000"),
            ("y", 1, "a-00000001"),
            ("z", 3, "a-00000003"),
        ]
        assert corpus.counts.to_dict() == {"read": 4, "kept": 3, "dropped": {"duplicate text": 1}}


def test_ids_and_fields_can_be_named(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"body": "x", "key": 7}, {"body": "y", "key": "\u00e9"}])
    assert [(text.id, text.text) for text in read_corpus("file", path, text_field="body", id_field="key")] == [("7", "x"), ("\u00e9", "y")]


@pytest.mark.parametrize(
    ("name", "content", "code", "place"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xff"}\n', "BAD_UTF8", ":2"),
        ("a.txt", b"fine\nab\xffcd\n", "BAD_UTF8", ":2"),
        ("a.json", b'[{"text": "\xe9"}]', "BAD_UTF8", "a.json"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "y', "BAD_JSON", ":2"),
        ("a.json", b'[{"text": "x"},\n {"text"', "BAD_JSON", ":2"),
        ("a.json", b'{"text": "x"}', "BAD_JSON", "a.json"),
        ("a.jsonl", b'"x"\n', "BAD_JSON", ":1"),
        ("a.jsonl", b"[" * 100_000 + b"\n", "BAD_JSON", ":1"),
        ("a.jsonl", b'{"text": "x", "n": ' + b"1" * 5000 + b"}\n", "BAD_JSON", ":1"),
        ("a.jsonl", b'{"text": "x"}\n{"body": "y"}\n', "MISSING_KEY", ":2"),
        ("a.json", b'[{"text": "x"}, {"text": null}]', "MISSING_KEY", "#1"),
        ("a.json", b'[{"text": "x"}, {"text": 5}]', "WRONG_TYPE", "#1"),
        ("a.jsonl", b'{"text": " \\n "}\n', "EMPTY_TEXT", ":1"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "BAD_TEXT", ":1"),
        ("a.jsonl", b'{"text": "x", "id": "k"}\n{"text": "y", "id": "k"}\n', "DUPLICATE_ID", ":2"),
        ("a.jsonl", b'{"text": "x", "id": true}\n', "WRONG_TYPE", ":1"),
        ("a.txt", b"\n\n", "EMPTY_CORPUS", "a.txt"),
        ("a.json", b"[]", "EMPTY_CORPUS", "a.json"),
        ("a.parquet", b"PAR1 not really", "BAD_PARQUET", "a.parquet#0"),
        ("a.docx", b"PK", "UNKNOWN_FORMAT", "a.docx"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(tmp_path, name, content, code, place):
    (tmp_path / name).write_bytes(content)
    error = problem(tmp_path / name)
    assert error.code == code
    assert error.where.endswith(place)
    assert len(error.line().encode()) <= 300


def test_the_byte_offset_of_invalid_utf8_is_that_of_the_file(tmp_path):
    for name, content in (("a.txt", b"\xef\xbb\xbffine\nab\xffcd\n"), ("a.json", b'\xef\xbb\xbf[{"text": "\xff"}]')):
        (tmp_path / name).write_bytes(content)
        assert f"offset {content.index(0xFF)} " in problem(tmp_path / name).message


def test_all_problems_of_a_file_are_listed(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": ""}\n{"text": "fine"}\n{"te\n{"text": "\xff"}\n')
    assert [(p.code, p.where[-2:]) for p in read_corpus("file", path).problems()] == [
        ("EMPTY_TEXT", ":1"),
        ("BAD_JSON", ":3"),
        ("BAD_UTF8", ":4"),
    ]
    error = problem(path)
    listed = Path(error.preface.split("all listed in ")[1].split(" ")[0])
    assert error.code == "EMPTY_TEXT"
    assert len(listed.read_text().splitlines()) == 3
    listed.unlink()


def test_missing_files_and_fifos_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    for name, code in (("absent.txt", "MISSING_FILE"), ("pipe.txt", "NOT_A_FILE")):
        with pytest.raises(InputError) as caught:
            read_corpus("file", tmp_path / name)
        assert caught.value.code == code


def test_a_folder_of_files_of_one_format_is_read_in_order(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.txt").write_text("three\n")
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    assert [(text.id, text.text) for text in read_corpus("file", tmp_path)] == [
        ("a-00000000", "one"),
        ("a-00000001", "two"),
        ("x-00000002", "three"),
    ]
    (tmp_path / "c.json").write_text("[]")
    with pytest.raises(InputError, match="one format"):
        read_corpus("file", tmp_path)


def test_a_link_out_of_a_folder_is_refused(tmp_path):
    (tmp_path / "secret.txt").write_text("secret\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(InputError) as caught:
        read_corpus("file", tmp_path / "data")
    assert caught.value.code == "OUTSIDE"


# saved Hugging Face datasets


def test_a_saved_dataset_is_read_as_the_library_wrote_it(tmp_path):
    datasets = pytest.importorskip("datasets")
    written = {"train": ["one", "two \U0001f600", "three"], "test": ["four"]}
    whole = datasets.DatasetDict(
        {split: datasets.Dataset.from_dict({"text": rows, "n": list(range(len(rows)))}) for split, rows in written.items()}
    )
    whole.save_to_disk(tmp_path / "splits")
    whole["train"].select([2, 0]).save_to_disk(tmp_path / "one", num_shards=2)
    for split, rows in written.items():
        assert texts(tmp_path / "splits", split=split) == rows
    assert texts(tmp_path / "one") == ["three", "one"]
    for path, split in ((tmp_path / "splits", None), (tmp_path / "splits", "dev"), (tmp_path / "one", "train")):
        with pytest.raises(InputError) as caught:
            read_corpus("file", path, split=split)
        assert caught.value.code == "UNKNOWN_SPLIT"


def test_a_saved_dataset_cannot_name_files_outside(tmp_path):
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../x.arrow"}]}))
    with pytest.raises(InputError) as caught:
        read_corpus("file", tmp_path)
    assert caught.value.code == "OUTSIDE"


def test_strings_of_a_column_are_decoded_strictly(tmp_path):
    import pyarrow
    import pyarrow.parquet

    bad = pyarrow.Array.from_buffers(
        pyarrow.string(), 2, [None, pyarrow.py_buffer(np.array([0, 2, 4], np.int32)), pyarrow.py_buffer(b"okx\xff")]
    )
    pyarrow.parquet.write_table(pyarrow.table({"text": bad}), tmp_path / "a.parquet")
    error = problem(tmp_path / "a.parquet")
    assert (error.code, error.where[-2:]) == ("BAD_UTF8", "#1")
    encoded = pyarrow.table({"text": pyarrow.array(["x", "y"]).dictionary_encode(), "id": [1, 2]})
    pyarrow.parquet.write_table(encoded, tmp_path / "b.parquet")
    assert [(text.id, text.text) for text in read_corpus("file", tmp_path / "b.parquet")] == [("1", "x"), ("2", "y")]


# latents given by the user


def test_given_latents_stay_with_their_texts(tmp_path):
    matrix = np.random.default_rng(0).normal(size=(14, 3)).astype(np.float16)
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": str(min(i, 12))} for i in range(14)])  # the last text repeats the one before
    np.save(tmp_path / "z.npy", matrix)
    (tmp_path / "blocks").mkdir()
    for number, start, end in ((2, 0, 5), (10, 5, 6), (11, 6, 14)):  # in the order of the numbers, not of the letters
        np.save(tmp_path / "blocks" / f"block_{number}.npy", matrix[start:end, None] if number == 10 else matrix[start:end])
    for latents in (tmp_path / "z.npy", tmp_path / "blocks"):
        corpus = read_corpus("file", path, latents=latents)
        rows = np.array([text.row for text in corpus])
        assert corpus.latents.dim == 3
        assert np.array_equal(corpus.latents.rows(rows[::-1]), matrix[:13][::-1].astype(np.float32))


def test_blank_lines_have_no_latents(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n\n\nthree\n")
    np.save(tmp_path / "z.npy", np.arange(3, dtype=np.float32)[:, None])
    corpus = read_corpus("file", tmp_path / "a.txt", latents=tmp_path / "z.npy")
    assert [(text.text, text.row) for text in corpus] == [("one", 0), ("two", 1), ("three", 2)]


def test_latents_that_do_not_fit_are_refused(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "x"}, {"text": "y"}])
    np.save(tmp_path / "three.npy", np.zeros((3, 4), np.float32))
    np.save(tmp_path / "whole.npy", np.zeros((2, 4), np.int64))
    np.save(tmp_path / "vector.npy", np.zeros(4, np.float32))
    np.save(tmp_path / "nan.npy", np.array([[1.0, 2.0], [np.nan, 0.0]]))
    np.save(tmp_path / "huge.npy", np.array([[1.0, 1e300]]))
    np.save(tmp_path / "object.npy", np.array([[{}]], object), allow_pickle=True)
    assert problem(path, latents=tmp_path / "three.npy").code == "LATENT_COUNT"
    for name, code in (("whole", "BAD_DTYPE"), ("vector", "LATENT_LAYOUT"), ("object", "BAD_DTYPE"), ("absent", "MISSING_FILE")):
        with pytest.raises(InputError) as caught:
            GivenLatents(tmp_path / f"{name}.npy")
        assert caught.value.code == code
    for name, row in (("nan", 1), ("huge", 0)):
        with pytest.raises(InputError) as caught:
            GivenLatents(tmp_path / f"{name}.npy").rows(np.arange(row + 1))
        assert (caught.value.code, caught.value.where[-2:]) == ("NAN_LATENT", f"#{row}")


def test_the_sharded_layout_pairs_texts_with_rows_of_shards(tmp_path):
    (tmp_path / "latent_shards").mkdir()
    shards = [np.random.default_rng(i).normal(size=(4, 5)).astype(np.float32) for i in range(3)]
    for i, shard in enumerate(shards):
        np.save(tmp_path / "latent_shards" / f"shard_{i:04d}.npy", shard)
    train = [{"text": "a", "shard": 2, "idx": 1}, {"text": "b", "shard": 0, "idx": 3}]
    write_jsonl(tmp_path / "train_data.jsonl", train)
    write_jsonl(tmp_path / "validation_data.jsonl", [{"text": "c", "shard": 1, "idx": 0}])
    (tmp_path / "metadata.json").write_text("{}")
    corpus = read_corpus("file", tmp_path)
    found: list[Text] = list(corpus)
    assert [(text.text, text.split) for text in found] == [("a", "train"), ("b", "train"), ("c", "validation")]
    expected = np.stack([shards[2][1], shards[0][3], shards[1][0]])
    assert np.array_equal(corpus.latents.rows(np.array([text.row for text in found])), expected)
    for wrong in ({"shard": 3, "idx": 0}, {"shard": 0, "idx": 4}, {"shard": 0, "idx": -1}, {"shard": "0", "idx": 0}, {}):
        write_jsonl(tmp_path / "train_data.jsonl", [*train, {"text": "d", **wrong}])
        assert problem(tmp_path).where.endswith("train_data.jsonl:3")
