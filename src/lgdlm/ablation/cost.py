"""What a variant's network computes for one token, counted from its real forward pass.

FLOPs a token = counted(denoiser(one text of max_seq_len tokens, logits at each)) / max_seq_len
"""

from __future__ import annotations

from functools import lru_cache

from lgdlm.config import Model
from lgdlm.evaluation.run_record import CONFIG, RunRecord
from lgdlm.models.build import build_denoiser
from lgdlm.models.flops import of_text
from lgdlm.schema import from_yaml


def flops_of(record: RunRecord) -> float | None:
    """FLOPs of a token of the run's longest text; None without results, which say how large the vocabulary is."""
    if record.results is None:
        return None
    model = from_yaml(record.config_yaml, record.folder / CONFIG).model
    return _flops(_Kept(model), int(record.results["data"]["tokenizer"]["vocab_size"]))


class _Kept:
    """A model's configuration as a key: it holds mappings, which have no hash of their own."""

    def __init__(self, model: Model):
        self.model = model

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Kept) and self.model == other.model

    def __hash__(self) -> int:
        return hash(repr(self.model))


@lru_cache(maxsize=64)
def _flops(kept: _Kept, vocab_size: int) -> float:
    N = kept.model.max_seq_len
    return of_text(build_denoiser(kept.model, vocab_size).eval(), kept.model, N).total / N
