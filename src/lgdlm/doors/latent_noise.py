"""Gaussian diffusion of latents under its old signature.

    add_noise(x0, t, noise=None) -> x_t, target            z_t = alpha z_0 + sigma e, and what the network should say about it

A time is continuous in [0, 1] where its dtype is floating, and an index 0 .. T - 1 of the table where it is an integer (index k is the time
(k + 1) / T, and -1 is clean): decided by the dtype, never by the values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lgdlm.config import Model
from lgdlm.diffusion.gaussian import GaussianDiffusion
from lgdlm.models.build import build_schedule
from lgdlm.rng import Rng


def continuous_time(t: Tensor, steps: int) -> Tensor:
    """The time of an index of the table; a floating time as it is. Raises ValueError outside of [0, 1], or of -1 .. steps - 1."""
    if t.is_floating_point():
        low, high, found = 0.0, 1.0, t
    else:
        low, high, found = -1.0, steps - 1.0, (t.double() + 1) / steps
    if bool(((t < low) | (t > high)).any()):
        raise ValueError(f"times of dtype {t.dtype} lie in [{low:g}, {high:g}], got {float(t.min()):g} to {float(t.max()):g}")
    return found


class ContinuousDiffusion:
    """`GaussianDiffusion` with a table of `num_timesteps` entries.

    `beta_start` and `beta_end` shape the linear schedule only. The default parameterisation is v, whose z_0 can be recovered at every time;
    `device` is where indices and times may come from without a device of their own.
    """

    def __init__(
        self,
        num_timesteps: int = 1000,
        beta_schedule: str = "cosine",
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        parameterization: str = "v_param",
        device: torch.device | str | None = None,
    ):
        self.num_timesteps, self.device = num_timesteps, torch.device(device or "cpu")
        table = Model(
            latent_timesteps=num_timesteps, latent_beta_schedule=beta_schedule, latent_beta_min=beta_start, latent_beta_max=beta_end
        )
        try:
            schedule = build_schedule(table)
        except KeyError:
            raise ValueError(f"beta_schedule {beta_schedule!r}: expected cosine, linear or sigmoid") from None
        self.process = GaussianDiffusion(schedule, parameterization)

    @property
    def alphas_cumprod(self) -> Tensor:
        """abar of the table, float64 [T]."""
        return self.process.schedule.table(self.num_timesteps).to(self.device)

    def add_noise(self, x0: Tensor, t: Tensor | float | int, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x0 [B, ...] at times [B] (or one for all) to x_t and the target; `noise` None: fresh from torch's generator."""
        time, epsilon = self._times(t, x0), torch.randn_like(x0) if noise is None else noise
        alpha, sigma = self.process.scales(time, x0)
        targets = {"epsilon": epsilon, "x0": x0, "v_param": alpha * epsilon - sigma * x0}
        return self.process.mix(x0, epsilon, time), targets[self.process.predicts]

    def predict_x0_from_eps(self, xt: Tensor, t: Tensor | float | int, eps: Tensor) -> Tensor:
        """x_0 that a prediction of the noise implies. Raises ValueError near t = 1, where it would be divided by almost zero."""
        return GaussianDiffusion(self.process.schedule, "epsilon").to_x0(eps, xt, self._times(t, xt))

    def predict_x0_from_v(self, xt: Tensor, t: Tensor | float | int, v: Tensor) -> Tensor:
        """x_0 that a prediction of v = alpha e - sigma x_0 implies."""
        return GaussianDiffusion(self.process.schedule, "v_param").to_x0(v, xt, self._times(t, xt))

    def ddim_step(self, xt: Tensor, t: Tensor | float | int, t_prev: Tensor | float | int, pred: Tensor, eta: float = 0.0) -> Tensor:
        """x at the earlier time `t_prev`: DDIM for eta 0, ancestral for eta 1, with noise from torch's own generator."""
        rng = Rng(int(torch.randint(1 << 62, ())) if eta else 0, 0, torch.arange(len(xt), device=xt.device))
        return self.process.step(xt, pred, self._times(t, xt), self._times(t_prev, xt), rng, eta)

    def _times(self, t: Tensor | float | int, like: Tensor) -> Tensor:
        given = torch.as_tensor(t, device=like.device)
        return continuous_time(given, self.num_timesteps).reshape(-1).expand(len(like))
