"""How much of a learned latent is used: what tells a collapsed posterior from a working one.

    active units         number of d with Var_y(mu_d) > 0.01 (Var_y(mu_d) + E_y sigma_d^2)        of the aggregate's variance
    mutual information   E_i [ log q(z_i | y_i) - log 1/n sum_j q(z_i | y_j) ],   z_i ~ q(z | y_i)  at most log n

The first is the count of Burda et al. 2016, in units of the aggregate posterior so that it does not depend on the prior's scale.
The second is a lower bound of I(y; z) in expectation over sets of n texts; KL = I(y; z) + KL(aggregate || prior).
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from lgdlm.models.posterior import Posterior

LEAST_SHARE = 0.01
ROWS_TOGETHER = 256


def moments(q: Posterior) -> np.ndarray:
    """Statistics of each text that add up, float64 [B, 3 D + 1]: mu, mu^2, sigma^2, 1."""
    mean, variance = _flat(q.mean), np.exp(_flat(q.log_variance))
    return np.concatenate([mean, mean**2, variance, np.ones((len(mean), 1))], axis=1)


def active_units(sums: np.ndarray) -> np.ndarray:
    """The number of active units from summed `moments` [..., 3 D + 1]."""
    mean, square, variance = np.split(sums[..., :-1] / sums[..., -1:], 3, axis=-1)
    spread = square - mean**2
    return (spread > LEAST_SHARE * (spread + variance)).sum(axis=-1).astype(np.float64)


def mutual_information(q: Posterior, z: Tensor) -> np.ndarray:
    """The estimate's term of each of the n texts in nats, float64 [n]; z [n, L, D] holds a draw from each posterior."""
    mean, log_variance, drawn = _flat(q.mean), _flat(q.log_variance), _flat(z)
    own = _log_density(drawn, mean, log_variance)
    mixture = np.empty(len(drawn))
    for start in range(0, len(drawn), ROWS_TOGETHER):
        part = slice(start, start + ROWS_TOGETHER)
        every = _log_density(drawn[part, None], mean[None], log_variance[None])
        highest = every.max(axis=1, keepdims=True)
        mixture[part] = highest[:, 0] + np.log(np.exp(every - highest).mean(axis=1))
    return own - mixture


def _log_density(z: np.ndarray, mean: np.ndarray, log_variance: np.ndarray) -> np.ndarray:
    """log N(z; mean, exp log_variance) but for the constant, summed over the last axis."""
    return -0.5 * (log_variance + (z - mean) ** 2 * np.exp(-log_variance)).sum(axis=-1)


def _flat(x: Tensor) -> np.ndarray:
    return x.detach().flatten(1).double().cpu().numpy()
