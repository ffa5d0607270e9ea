"""Retention: what a denoiser that grew out of a language model has kept of it, on plain text read from left to right.

    perplexity = exp( sum over texts of -log p(y_1 .. y_n)  /  tokens ),     p(y_1 .. y_n) = prod p(y_i | end, y_1 .. y_{i-1})

before   the pretrained weights
after    the denoiser's token rows, left-to-right halves, norms and channel mixes (and its head, where that is the pretrained one) in
         the same model: what `lgdlm convert` would publish. Neither latent nor clocks, fusions or right-to-left halves take part

A frozen backbone keeps everything: before and after are then equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from lgdlm.evaluation.bootstrap import Bootstrap
from lgdlm.evaluation.documents import Documents
from lgdlm.evaluation.results import Results
from lgdlm.models.language_model import LanguageModel, nats

BEFORE = "before adaptation"
BATCH_LOGITS = 1 << 24


@dataclass(frozen=True)
class Retention:
    """The two language models, over the vocabulary of the documents' tokens; `end` is the id that divides texts."""

    before: LanguageModel
    after: LanguageModel
    end: int

    def measure(
        self, documents: Documents, results: Results, bootstrap: Bootstrap, on_progress: Callable[[int], None] | None = None
    ) -> None:
        """Add both numbers of both models; progress counts documents, twice."""
        own, before = (text_nats(model, documents, self.end, on_progress) for model in (self.after, self.before))
        for name, count in (("ar_perplexity", documents.lengths), ("ar_bits_per_byte", documents.bytes)):
            size = count.astype(np.float64)
            results.add(name, np.stack([own, size], axis=1), bootstrap, {BEFORE: np.stack([before, size], axis=1)})


def text_nats(model: LanguageModel, documents: Documents, end: int, on_progress: Callable[[int], None] | None = None) -> np.ndarray:
    """-log p of each document's tokens in nats, float64 [n]; texts of one length are read together."""
    lengths = documents.lengths
    assert lengths.min(initial=1) > 0, "every text has tokens"
    found = np.zeros(len(lengths))
    device = model.emb.weight.device
    order = np.argsort(lengths, kind="stable")
    for same in np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1):
        rows = max(1, BATCH_LOGITS // (model.sizes.vocab_size * int(lengths[same[0]])))
        for start in range(0, len(same), rows):
            which = same[start : start + rows]
            tokens = torch.from_numpy(np.stack([documents.tokens[i] for i in which]).astype(np.int64)).to(device)
            found[which] = nats(model, tokens, end).cpu().numpy()
            if on_progress:
                on_progress(len(which))
    return found
