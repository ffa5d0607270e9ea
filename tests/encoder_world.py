"""Embedding models for tests: tiny and random, of the real architectures, saved as their libraries save them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers")

TEXTS = ["a cat", "the quick brown fox jumps over the lazy dog by the river", "dog", "one two three four five six", "a cat sat on a mat"]
WORDS = sorted({word for text in TEXTS for word in text.split()})
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def models() -> dict[str, tuple]:
    """(model, pad id, special tokens before and after a text) by architecture."""
    t = transformers
    vocabulary = len(WORDS) + 8
    t5 = t.T5Config(vocab_size=vocabulary, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, dropout_rate=0.0)
    m2m = t.M2M100Config(
        vocab_size=vocabulary,
        d_model=16,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        pad_token_id=1,
        max_position_embeddings=64,
    )
    qwen3 = t.Qwen3Config(vocab_size=vocabulary, num_key_value_heads=1, head_dim=8, max_position_embeddings=64, **SMALL)
    roberta = t.XLMRobertaConfig(vocab_size=vocabulary, max_position_embeddings=66, pad_token_id=1, **SMALL)
    bert = t.BertConfig(vocab_size=vocabulary, max_position_embeddings=64, **SMALL)
    return {
        "bert": (lambda: t.BertModel(bert), "[CLS] $A [SEP]"),
        "xlm-roberta": (lambda: t.XLMRobertaModel(roberta), "[CLS] $A [SEP]"),
        "qwen3": (lambda: t.Qwen3Model(qwen3), "$A [SEP]"),
        "t5": (lambda: t.T5Model(t5), "$A [SEP]"),
        "m2m_100": (lambda: t.M2M100Model(m2m), "[LANG] $A [SEP]"),
        "m2m_100 encoder": (lambda: sonar_encoder(m2m), "[LANG] $A [SEP]"),
    }


def sonar_encoder(config):
    from transformers.models.m2m_100.modeling_m2m_100 import M2M100Encoder

    return M2M100Encoder(config)


def save_model(folder: Path, architecture: str, padding_side: str = "right") -> Path:
    """A random model with a tokenizer of whole words: [UNK] 0, [PAD] 1, the special tokens, the words."""
    import tokenizers

    build, template = models()[architecture]
    torch.manual_seed(0)
    model = build().eval()
    for parameter in model.parameters():  # far from the tiny initialisation, where all texts look alike
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    specials = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[LANG]"]
    words = tokenizers.models.WordLevel({word: i for i, word in enumerate([*specials, *WORDS, "query:", "passage:"])}, "[UNK]")
    backend = tokenizers.Tokenizer(words)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    backend.post_processor = tokenizers.processors.TemplateProcessing(template, special_tokens=[(s, i) for i, s in enumerate(specials)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", padding_side=padding_side, model_max_length=32
    )
    fast.save_pretrained(folder)
    return folder
