"""Every tokenizer gives a text back as it was, and the same ids wherever it was loaded."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgdlm.data.corpus import read_corpus
from lgdlm.data.tokenizer import TOKENIZERS, Tokenizer, load_tokenizer, make_tokenizer
from lgdlm.data.vocabulary import Vocabulary
from lgdlm.errors import InputError

SIZE = 1024
SCRIPTS = [
    "The quick brown fox jumps over the lazy dog.",
    "\u4eba\u4eba\u751f\u800c\u81ea\u7531\uff0c\u5728\u5c0a\u4e25\u548c\u6743\u5229\u4e0a\u4e00\u5f8b\u5e73\u7b49\u3002",
    "\u0412\u0441\u0435 \u043b\u044e\u0434\u0438 \u0440\u043e\u0436\u0434\u0430\u044e\u0442\u0441\u044f",
    "\u064a\u0648\u0644\u062f \u062c\u0645\u064a\u0639 \u0627\u0644\u0646\u0627\u0633 \u0623\u062d\u0631\u0627\u0631\u064b\u0627",
    "\u0938\u092d\u0940 \u092e\u0928\u0941\u0937\u094d\u092f\u094b\u0902",
    "cafe\u0301 versus caf\u00e9",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308",
    "tabs\tand\r\nlines\n\n  spaces   ",
    "\ufffd \ufeff \u2028 \x01\x7f",
]
UNICODE = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


def definitions(count: int) -> list[str]:
    return [text.text for _, text in zip(range(count), read_corpus("wordnet", kinds=("definition",)), strict=False)]


@pytest.fixture(scope="module")
def byte_level_bpe(tmp_path_factory) -> str:
    """A local Hugging Face folder: byte-level BPE trained on definitions, as save_pretrained lays it out."""
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("bpe")
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<|end|>"], initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator(definitions(500), trainer)
    bpe.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return str(folder)


@pytest.fixture(scope="module")
def tokenizers_by_kind(byte_level_bpe) -> dict[str, Tokenizer]:
    return {kind: make_tokenizer(kind, texts=definitions(5000), size=SIZE, path=byte_level_bpe) for kind in TOKENIZERS}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request, tokenizers_by_kind) -> Tokenizer:
    return tokenizers_by_kind[request.param]


def test_every_script_comes_back(tokenizer):
    ids = tokenizer.encode_batch(SCRIPTS)
    assert ids == [tokenizer.encode(text) for text in SCRIPTS]
    assert [tokenizer.decode(row) for row in ids] == SCRIPTS
    assert [b"".join(tokenizer.token_bytes(i) for i in row).decode() for row in ids] == SCRIPTS


@given(text=UNICODE)
def test_any_text_comes_back_and_never_holds_the_end(tokenizers_by_kind, text):
    for tokenizer in tokenizers_by_kind.values():
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert all(0 <= i < tokenizer.vocab_size and i != tokenizer.eos_id for i in ids)


@given(ids=st.lists(st.integers(0, SIZE - 1)))
def test_any_ids_decode_to_some_text(tokenizers_by_kind, ids):
    for tokenizer in tokenizers_by_kind.values():
        low = [i % tokenizer.vocab_size for i in ids]
        assert isinstance(tokenizer.decode(low), str)


def test_every_id_has_bytes_within_the_vocabulary_and_the_mask_has_none(tokenizer):
    assert tokenizer.token_bytes(tokenizer.eos_id) == b""
    assert all(isinstance(tokenizer.token_bytes(i), bytes) for i in (0, 1, 200, tokenizer.vocab_size - 1))
    with pytest.raises(AssertionError, match="mask"):
        tokenizer.decode([tokenizer.vocab_size])


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "t")
    assert all(file.suffix == ".json" for file in (tmp_path / "t").iterdir())
    loaded = load_tokenizer(tmp_path / "t")
    assert loaded.identity() == tokenizer.identity() == json.loads(json.dumps(tokenizer.identity()))
    assert loaded.encode_batch(SCRIPTS) == tokenizer.encode_batch(SCRIPTS)


def test_a_damaged_folder_is_refused(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    file = next(file for file in tmp_path.iterdir() if file.name != "tokenizer_identity.json")
    file.write_text(file.read_text(encoding="utf-8").replace("the", "teh"), encoding="utf-8")
    if tokenizer.kind == "byte":  # no token of it has three letters
        file.write_text(file.read_text(encoding="utf-8").replace('"A"', '"B"'), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_tokenizer(tmp_path)
    assert caught.value.code == "BAD_TOKENIZER"
    file.unlink()
    with pytest.raises(InputError) as caught:
        load_tokenizer(tmp_path)
    assert caught.value.code == "MISSING_FILE"


def test_a_lone_surrogate_is_refused(tokenizer):
    with pytest.raises(InputError) as caught:
        tokenizer.encode("a\ud800b")
    assert caught.value.code == "BAD_TEXT"


@pytest.fixture(scope="module")
def compiled():
    return pytest.importorskip("pyrwkv_tokenizer").RWKVTokenizer()


def test_our_trie_gives_the_ids_of_the_compiled_encoder(tokenizers_by_kind, compiled):
    world = tokenizers_by_kind["rwkv"]
    assert (world.vocab_size, world.eos_id) == (65_536, 0)
    for text in [*SCRIPTS, *definitions(3000)]:
        assert world.vocabulary.encode(text.encode()) == compiled.encode(text)


@given(text=UNICODE)
def test_our_trie_gives_the_ids_of_the_compiled_encoder_on_any_text(tokenizers_by_kind, compiled, text):
    assert tokenizers_by_kind["rwkv"].vocabulary.encode(text.encode()) == compiled.encode(text)


@given(st.lists(st.binary(min_size=1, max_size=4), max_size=12), st.binary(max_size=40))
def test_the_trie_finds_the_longest_match(longer, data):
    vocabulary = Vocabulary([b"", *(bytes([i]) for i in range(256)), *longer])
    position = 0
    for i in vocabulary.encode(data):
        token = vocabulary.tokens[i]
        assert data.startswith(token, position)
        assert not any(len(other) > len(token) and data.startswith(other, position) for other in vocabulary.tokens)
        position += len(token)
    assert position == len(data)


def test_a_compact_vocabulary_is_the_bytes_and_the_most_frequent_tokens():
    texts = definitions(2000)
    world = make_tokenizer("rwkv")
    compact = make_tokenizer("rwkv_compact", texts=texts, size=SIZE)
    assert compact.vocab_size == SIZE
    assert [compact.token_bytes(i) for i in range(257)] == [b"", *(bytes([i]) for i in range(256))]
    kept = {compact.token_bytes(i) for i in range(257, SIZE)}
    assert len(kept) == SIZE - 257
    counts: dict[bytes, int] = {}
    for row in world.encode_batch(texts):
        for i in row:
            counts[world.token_bytes(i)] = counts.get(world.token_bytes(i), 0) + 1
    least_kept = min(counts.get(token, 0) for token in kept)
    assert all(count <= least_kept for token, count in counts.items() if len(token) > 1 and token not in kept)
    larger = make_tokenizer("rwkv_compact", texts=texts, size=4 * SIZE)
    lengths = [sum(map(len, t.encode_batch(texts))) for t in (world, larger, compact)]
    assert lengths == sorted(lengths)


def test_a_compact_vocabulary_has_its_size_whatever_the_texts():
    assert make_tokenizer("rwkv_compact", texts=["one text"], size=5000).vocab_size == 5000
    assert make_tokenizer("rwkv_compact", texts=["one text"], size=257).encode("ab") == [98, 99]
    for size in (256, 65_531):
        with pytest.raises(InputError, match="256 are the bytes"):
            make_tokenizer("rwkv_compact", texts=["one text"], size=size)


def test_bytes_are_their_own_ids():
    tokenizer = make_tokenizer("byte")
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (256, 0)
    assert tokenizer.encode("h\u00e9\u20ac") == list("h\u00e9\u20ac".encode())
    with pytest.raises(InputError) as caught:
        tokenizer.encode("a\0b")
    assert caught.value.code == "BAD_TEXT"
    assert tokenizer.decode([104, 0xC3, 0]) == "h\ufffd"


def test_the_name_of_a_special_token_in_a_text_is_text(tokenizers_by_kind):
    tokenizer = tokenizers_by_kind["hf"]
    ids = tokenizer.encode("before <|end|> after")
    assert tokenizer.eos_id not in ids
    assert tokenizer.decode(ids) == "before <|end|> after"


def test_a_tokenizer_without_an_end_says_what_to_do(byte_level_bpe):
    file = f"{byte_level_bpe}/tokenizer.json"
    with pytest.raises(InputError, match="eos_token=") as caught:
        make_tokenizer("hf", path=file)
    assert caught.value.code == "MISSING_EOS"
    named = make_tokenizer("hf", path=file, eos_token="<|end|>")
    assert named.encode("a cat") == make_tokenizer("hf", path=byte_level_bpe).encode("a cat")
    with pytest.raises(InputError, match="not in the vocabulary"):
        make_tokenizer("hf", path=file, eos_token="<none>")


def test_unknown_names_and_missing_arguments_are_refused(tmp_path):
    for kind, options, code in (("bpe", {}, "UNKNOWN_VALUE"), ("hf", {}, "MISSING_KEY"), ("hf", {"path": tmp_path / "no"}, "MISSING_FILE")):
        with pytest.raises(InputError) as caught:
            make_tokenizer(kind, **options)
        assert caught.value.code == code
    (tmp_path / "tokenizer.json").write_text("{}")
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        with pytest.raises(InputError) as caught:
            make_tokenizer("hf", path=path, eos_token="x")
        assert caught.value.code == "BAD_TOKENIZER"
