"""Texts along the arc between two latents.

    slerp(a, b, w) = norm(w) (sin((1 - w) o) a' + sin(w o) b') / sin(o)     a', b' directions, o their angle,
    norm(w) = (1 - w) |a| + w |b|

The arc is taken between standardised latents, where the model's prior is a unit Gaussian: a straight line would pass closer to the mean
than any sample lies.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.sampling.decode import TextSamples
from lgdlm.sampling.l2t import sample_text_from_latent
from lgdlm.sampling.request import refusal, standardised

NEARLY_PARALLEL = 1e-4  # below this angle the arc is its chord to 1e-9


def slerp(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """From `a` to `b`, each [...], at `weights` [K] in [0, 1]: [K, ...]. Norms are interpolated linearly.

    Raises InputError where the two point in opposite directions (no arc is the shortest) or one of them is zero.
    """
    u, v, w = a.flatten().double(), b.flatten().double(), weights.double()[:, None]
    if not bool(u.any()) or not bool(v.any()):
        raise refusal("latent", "a latent at the mean of the data has no direction: there is no arc from it")
    first, second = u / u.norm(), v / v.norm()
    angle = 2 * torch.atan2((first - second).norm(), (first + second).norm())  # accurate at small angles, unlike acos
    if float(torch.pi - angle) < NEARLY_PARALLEL:
        raise refusal("latent", "the two latents point in opposite directions: no arc between them is the shortest")
    if float(angle) < NEARLY_PARALLEL:
        return ((1 - w) * u + w * v).reshape(-1, *a.shape).to(a.dtype)
    direction = (((1 - w) * angle).sin() * first + (w * angle).sin() * second) / angle.sin()
    return (((1 - w) * u.norm() + w * v.norm()) * direction).reshape(-1, *a.shape).to(a.dtype)


def interpolate(model: TextLatentDiffusion, latent_a: Tensor, latent_b: Tensor, count: int = 8, **options: object) -> TextSamples:
    """`count` texts from `latent_a` to `latent_b` (raw, [D] or [L, D]), both ends included; their latents are in `TextSamples.latent`.

    All texts share one row's randomness, so that nothing but the latent differs between neighbours. `options` are those of
    `sample_text_from_latent` (`rows` int: which row's randomness).
    """
    if count < 2:
        raise refusal("count", f"at least 2 are expected, got {count}")
    shape = model.latent_shape
    ends = [latent if latent.dim() == 2 else latent[None] for latent in (latent_a, latent_b)]
    if ends[0].shape != ends[1].shape:
        got = f"{list(latent_a.shape)} and {list(latent_b.shape)}"
        raise refusal("latent", f"[{shape[0]}, {shape[1]}] is expected twice, got {got}", "LATENT_DIM")
    a, b = standardised(model, torch.stack(ends))
    arc = model.unstandardise(slerp(a, b, torch.linspace(0, 1, count, device=model.device)))
    row = int(options.pop("rows", 0))  # type: ignore[call-overload]
    return sample_text_from_latent(model, arc, rows=[row] * count, **options)  # type: ignore[arg-type]
