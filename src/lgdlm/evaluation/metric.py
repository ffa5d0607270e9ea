"""A metric is a function of summed statistics, with a direction.

    value = fn( sum over documents of statistics(document) )

Because every metric is written that way, it accumulates over batches and ranks by adding, and its confidence interval is the same
function of resampled sums. `METRICS` is the list of everything that can appear in `results.json`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lgdlm.objectives.latent_usage import active_units

Array = np.ndarray


@dataclass(frozen=True)
class Metric:
    """`fn`: sums float64 [..., k] to values [...]. `better`: `higher`, `lower`, or `none` of what others are compared with.
    `resampled` False where the statistic of several texts is no sum over them (counts of different n-grams), so that no interval over
    documents exists."""

    fn: Callable[[Array], Array]
    better: str
    label: str
    unit: str
    group: str
    resampled: bool = True

    def __post_init__(self) -> None:
        assert self.better in ("higher", "lower", "none")


def ratio(sums: Array) -> Array:
    """s0 / s1: a mean when s1 counts what s0 adds up. Not finite where nothing was counted: results refuse that with a reason."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums[..., 0] / sums[..., 1]


def exponential(sums: Array) -> Array:
    """exp(s0 / s1): perplexity from nats and tokens."""
    return np.exp(ratio(sums))


def bits(sums: Array) -> Array:
    """s0 / s1 / log 2: bits from nats."""
    return ratio(sums) / math.log(2)


def explained(sums: Array) -> Array:
    """1 - s0 / s1: R2 from squared errors and squares around the training mean."""
    return 1 - ratio(sums)


def bleu(sums: Array) -> Array:
    """Corpus BLEU-4 (0..100) from [correct 1..4, total 1..4, hypothesis length, reference length], as sacrebleu's default.

    Exponential smoothing: the k-th order without a match counts as 1 / 2^k matches. An order without any n-gram makes it 0.
    """
    correct, total, length, reference = sums[..., :4], sums[..., 4:8], sums[..., 8], sums[..., 9]
    empty = correct == 0
    smoothed = np.where(empty, 0.5 ** np.cumsum(empty, axis=-1), correct)
    usable = (total > 0).all(axis=-1) & (correct.sum(axis=-1) > 0)
    logs = np.log(smoothed / np.maximum(total, 1)).mean(axis=-1)
    brevity = np.minimum(0, 1 - reference / np.maximum(length, 1))
    return np.where(usable, 100 * np.exp(logs + brevity), 0.0)


def moment_distance(sums: Array) -> Array:
    """mean over dimensions of d1^2 + d2^2 / 2 from [sum of differences of D values, of their D squares, count]."""
    means = sums[..., :-1] / sums[..., -1:]
    first, second = np.split(means, 2, axis=-1)
    return (first**2 + second**2 / 2).mean(axis=-1)


def _conditions(name: str, fn: Callable[[Array], Array], label: str, unit: str) -> dict[str, Metric]:
    words = {"given_latent": "given z", "unconditional": "unconditional", "shuffled_latent": "given another text's z"}
    better = {"shuffled_latent": "none"}  # a wrong latent should cost something
    return {f"{name}_{key}": Metric(fn, better.get(key, "lower"), f"{label} {word}", unit, "likelihood") for key, word in words.items()}


def _estimates(name: str, fn: Callable[[Array], Array], better: str, label: str, unit: str) -> dict[str, Metric]:
    words = {"one_step": "one step", "sample": "one sample", "mean_of_8": "mean of 8 samples"}
    return {f"{name}_{key}": Metric(fn, better, f"{label}, {word}", unit, "t2l") for key, word in words.items()}


def _times(name: str, better: str, label: str) -> dict[str, Metric]:
    unit = "share" if better == "higher" else "of the radius"
    words = {"": "mean over times", "_t25": "t = 1/4", "_t50": "t = 1/2", "_t75": "t = 3/4", "_t100": "t = 1"}
    return {f"{name}{key}": Metric(ratio, better, f"{label}, {word}", unit, "embedding") for key, word in words.items()}


METRICS: dict[str, Metric] = {
    **_conditions("nelbo", ratio, "NELBO (length included)", "nats/token"),
    "nelbo_latent_gain": Metric(ratio, "higher", "NELBO given another text's z minus given z", "nats/token", "likelihood"),
    **_conditions("perplexity", exponential, "Perplexity bound", "per token"),
    **_conditions("bits_per_byte", bits, "NELBO", "bits/byte"),
    **_conditions("length_nats", ratio, "Length cost", "nats/text"),
    **_estimates("t2l_r2", explained, "higher", "T2L R2 (standardised)", ""),
    **_estimates("t2l_cosine", ratio, "higher", "T2L cosine", ""),
    **_estimates("t2l_mse", ratio, "lower", "T2L squared error (standardised)", "per dimension"),
    **_times("embedding_drift", "lower", "Distance of estimated embeddings to the nearest token"),
    **_times("rounding_accuracy", "higher", "Nearest token is the right one"),
    "rounding_logits_accuracy": Metric(ratio, "higher", "Likeliest token is the right one", "share", "embedding"),
    "embedding_squared_error": Metric(ratio, "lower", "Squared error of estimated embeddings", "per dimension", "embedding"),
    "rounding_nats": Metric(ratio, "lower", "Cross entropy of noised tokens, mean over times (no bound)", "nats/token", "embedding"),
    "stage2_reconstruction": Metric(ratio, "lower", "NELBO given z ~ q(z | text)", "nats/token", "stage2"),
    "stage2_bound": Metric(ratio, "lower", "NELBO given z + KL: the text's own bound", "nats/token", "stage2"),
    "stage2_perplexity": Metric(exponential, "lower", "Perplexity bound, KL included", "per token", "stage2"),
    "stage2_bits_per_byte": Metric(bits, "lower", "Bound, KL included", "bits/byte", "stage2"),
    "stage2_kl": Metric(ratio, "lower", "KL of the posterior to the prior", "nats/text", "stage2"),
    "stage2_mutual_information": Metric(ratio, "higher", "Text and latent: mutual information, at least", "nats/text", "stage2"),
    "stage2_active_units": Metric(active_units, "higher", "Active dimensions of the latent", "", "stage2"),
    "prior_reread_cosine": Metric(ratio, "higher", "Texts from the prior: cosine of the latent read back", "", "stage2"),
    "prior_distinct_1": Metric(ratio, "higher", "Texts from the prior: distinct-1", "share", "stage2", resampled=False),
    "prior_distinct_2": Metric(ratio, "higher", "Texts from the prior: distinct-2", "share", "stage2", resampled=False),
    "t2l_moments_sample": Metric(moment_distance, "lower", "T2L moments against the data's, one sample", "squared distance", "t2l"),
    "l2t_bleu": Metric(bleu, "higher", "L2T BLEU", "0-100", "l2t"),
    "l2t_chrf": Metric(ratio, "higher", "L2T chrF (mean of texts)", "0-100", "l2t"),
    "l2t_token_f1": Metric(ratio, "higher", "L2T token F1", "", "l2t"),
    "l2t_length_error": Metric(ratio, "lower", "L2T length error", "tokens", "l2t"),
    "l2t_length_exact": Metric(ratio, "higher", "L2T length exact", "share", "l2t"),
    "l2t_distinct_1": Metric(ratio, "higher", "L2T distinct-1", "share", "l2t", resampled=False),
    "l2t_distinct_2": Metric(ratio, "higher", "L2T distinct-2", "share", "l2t", resampled=False),
    "l2t_cosine_encoder": Metric(ratio, "higher", "L2T cosine in the encoder's space", "", "l2t"),
    "l2t_cosine_projected": Metric(ratio, "higher", "L2T cosine in the latent's space", "", "l2t"),
    "l2t_r1_encoder": Metric(ratio, "higher", "L2T source found first, encoder's space", "share", "l2t"),
    "l2t_r1_projected": Metric(ratio, "higher", "L2T source found first, latent's space", "share", "l2t"),
    "l2t_rank_encoder": Metric(ratio, "lower", "L2T mean rank of the source, encoder's space", "rank", "l2t"),
    "l2t_rank_projected": Metric(ratio, "lower", "L2T mean rank of the source, latent's space", "rank", "l2t"),
    "cycle_text_nelbo_mean": Metric(ratio, "lower", "Text cycle: NELBO given the text's own one-step latent", "nats/token", "cycle"),
    "cycle_text_nelbo_sample": Metric(ratio, "lower", "Text cycle: NELBO given a latent sampled for the text", "nats/token", "cycle"),
    "cycle_latent_mse": Metric(ratio, "lower", "Latent cycle: squared error (standardised)", "per dimension", "cycle"),
    "joint_cosine_projected": Metric(ratio, "higher", "Joint: cosine of the text to its latent", "", "joint"),
    "judge_perplexity_l2t": Metric(exponential, "lower", "Perplexity of L2T texts under the judge", "per token", "judge"),
    "judge_perplexity_joint": Metric(exponential, "lower", "Perplexity of joint texts under the judge", "per token", "judge"),
    "judge_perplexity_prior": Metric(exponential, "lower", "Perplexity of texts from the prior under the judge", "per token", "judge"),
    "ar_perplexity": Metric(exponential, "lower", "Left-to-right perplexity of the pretrained part", "per token", "retention"),
    "ar_bits_per_byte": Metric(bits, "lower", "Left-to-right cost under the pretrained part", "bits/byte", "retention"),
}


def mean_of(values: Array) -> Array:
    """Statistics [n, 2] of a plain mean over documents."""
    values = np.asarray(values, np.float64)
    return np.stack([values, np.ones_like(values)], axis=1)
