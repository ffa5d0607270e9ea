"""Ridge regression from bags of tokens to latents: the linear T2L that a network has to beat.

    W = argmin |X_c W - Z_c|^2 + alpha |W|^2,   X [n, V] token counts, both centred (the intercept is not penalised)
    scaling: `counts` as they are, or `counts / sqrt(length)`: rows of about equal size, as the latents of an encoder that normalises are

by conjugate gradients on (X_c' X_c + alpha) W = X_c' Z_c, each column of Z on its own, preconditioned by the diagonal. X is never
made: X W is an embedding bag over texts, X' R an embedding bag over tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BY_LENGTH = "counts / sqrt(length)"
SCALINGS = ("counts", BY_LENGTH)
PAIR_PENALTIES = (0.1, 0.3, 1.0)  # tried where the bag also holds pairs of tokens
PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
TOLERANCE = 1e-4  # of the residual's norm; the choice of alpha moves R2 by far more
ROUNDS = 400


class Bags:
    """Token counts of texts, by one of `SCALINGS`, as a linear map in both directions."""

    def __init__(self, tokens: Sequence[np.ndarray], vocab_size: int, scaling: str = "counts"):
        lengths = torch.tensor([len(ids) for ids in tokens])
        self.count, self.vocab_size = len(tokens), vocab_size
        self.scale = (torch.ones(len(tokens)) if scaling == "counts" else lengths.float().rsqrt())[:, None]
        self.ids = torch.from_numpy(np.concatenate(tokens))
        self.starts = lengths.cumsum(0) - lengths
        by_token = self.ids.sort(stable=True)
        self.texts = torch.repeat_interleave(torch.arange(self.count), lengths)[by_token.indices]
        uses = torch.bincount(self.ids, minlength=vocab_size)
        self.token_starts = uses.cumsum(0) - uses

    def times(self, weights: Tensor) -> Tensor:
        """X W: [V, D] to [n, D]."""
        return self.scale * F.embedding_bag(self.ids, weights, self.starts, mode="sum")

    def transposed_times(self, residual: Tensor) -> Tensor:
        """X' R: [n, D] to [V, D]."""
        return F.embedding_bag(self.texts, self.scale * residual, self.token_starts, mode="sum")

    def squares(self) -> Tensor:
        """Diagonal of X' X, [V]."""
        pair, times = torch.unique(self.texts * self.vocab_size + self.ids.sort(stable=True).values, return_counts=True)
        sizes = (times * self.scale[pair // self.vocab_size, 0]) ** 2
        return torch.zeros(self.vocab_size).index_add(0, pair % self.vocab_size, sizes)


class BagRidge:
    """Fitted on `tokens` and latents float [n, D] with penalty `alpha`; `initial` [V, D] is where the solver starts.

    `held_out_error` is the mean squared error of each dimension on texts that were not fitted, where `fit_ridge` chose the penalty.
    """

    def __init__(
        self,
        tokens: Sequence[np.ndarray],
        latents: np.ndarray,
        vocab_size: int,
        alpha: float,
        initial: Tensor | None = None,
        scaling: str = "counts",
    ):
        if scaling not in SCALINGS:
            raise ValueError(f"scaling {scaling!r}: expected one of {', '.join(SCALINGS)}")
        bags, targets = Bags(tokens, vocab_size, scaling), torch.from_numpy(np.ascontiguousarray(latents, np.float32))
        self.vocab_size, self.alpha, self.scaling = vocab_size, alpha, scaling
        self._mean_target = targets.mean(dim=0)
        self._mean_bag = bags.transposed_times(torch.ones(bags.count, 1))[:, 0] / bags.count
        self.weights = self._solve(bags, targets - self._mean_target, initial)
        self.held_out_error: np.ndarray | None = None

    @property
    def offset(self) -> Tensor:
        """Latent of an empty bag, float32 [D]."""
        return self._mean_target - self._mean_bag @ self.weights

    def predict(self, tokens: Sequence[np.ndarray]) -> np.ndarray:
        """Latents of texts, float32 [n, D]."""
        return (Bags(tokens, self.vocab_size, self.scaling).times(self.weights) + self.offset).numpy()

    def _solve(self, bags: Bags, targets: Tensor, initial: Tensor | None) -> Tensor:
        mean = self._mean_bag[:, None]

        def normal(w: Tensor) -> Tensor:
            centred = bags.times(w) - mean.T @ w
            return bags.transposed_times(centred) - mean * centred.sum(dim=0) + self.alpha * w

        goal = bags.transposed_times(targets) - mean * targets.sum(dim=0)
        scale = (bags.squares() - bags.count * self._mean_bag**2).clamp_min(0)[:, None] + self.alpha
        w = torch.zeros_like(goal) if initial is None else initial.clone()
        residual = goal - normal(w)
        direction = steepest = residual / scale
        power = (residual * steepest).sum(dim=0)
        size = goal.norm(dim=0)
        for _ in range(ROUNDS):
            if bool((residual.norm(dim=0) <= TOLERANCE * size).all()):
                break
            image = normal(direction)
            step = _quotient(power, (direction * image).sum(dim=0))
            w, residual = w + step * direction, residual - step * image
            steepest = residual / scale
            former, power = power, (residual * steepest).sum(dim=0)
            direction = steepest + _quotient(power, former) * direction
        return w


def fit_ridge(
    tokens: Sequence[np.ndarray],
    latents: np.ndarray,
    vocab_size: int,
    seed: int = 0,
    penalties: Sequence[float] = PENALTIES,
    tuning: float = 0.1,
    scaling: str = "counts",
) -> BagRidge:
    """The ridge whose penalty does best on a `tuning` share of the training texts, then fitted on all of them.

    The share is drawn from `seed`; the evaluated texts play no part. Raises ValueError for fewer than ten texts.
    """
    count = len(tokens)
    if count < 10:
        raise ValueError(f"ridge regression needs at least 10 training texts to choose its penalty, got {count}")
    order = np.random.default_rng(seed).permutation(count)
    held, kept = order[: max(1, int(count * tuning))], order[max(1, int(count * tuning)) :]
    best: tuple[float, np.ndarray, Tensor] | None = None  # penalty, error, weights
    for alpha in sorted(penalties, reverse=True):  # the error has one valley, and small penalties are slow to solve: stop behind it
        model = BagRidge([tokens[i] for i in kept], latents[kept], vocab_size, alpha, best and best[2], scaling)
        error = np.square(model.predict([tokens[i] for i in held]) - latents[held]).mean(axis=0)
        if best is not None and error.sum() >= best[1].sum():
            break
        best = alpha, error, model.weights
    assert best is not None, "there is a penalty to try"
    ridge = BagRidge(tokens, latents, vocab_size, best[0], best[2], scaling)
    ridge.held_out_error = best[1]
    return ridge


def _quotient(top: Tensor, bottom: Tensor) -> Tensor:
    """A column that is solved already has 0 / 0 here: it stays where it is."""
    return torch.where(bottom > 0, top / bottom.clamp_min(torch.finfo(bottom.dtype).tiny), 0.0)
