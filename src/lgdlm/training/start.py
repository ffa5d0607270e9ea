"""Where a run that does not go on from a checkpoint of its own starts: found by the lead, sent to the others.

    warm       the averaged weights of another run                     otherwise   what data and pretrained weights say before step 1
    posterior  a fresh one begins in closed form, behind either

All ranks then have the same bits, whatever their processors make of a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from lgdlm.config import Config
from lgdlm.data.loader import Loader
from lgdlm.data.paired import PairedDataset
from lgdlm.data.tokenizer import load_tokenizer
from lgdlm.data.tokenizer_identity import read_identity
from lgdlm.models.adoption import AdoptionReport
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.models.pretrained import Pretrained
from lgdlm.training.agreement import same_projection, same_tokenizer
from lgdlm.training.backbone import begin
from lgdlm.training.distributed import World
from lgdlm.training.initialise import initialise
from lgdlm.training.posterior_start import start_posterior
from lgdlm.training.warm_start import start_from
from lgdlm.training.weights import weights_of


def start(
    model: TextLatentDiffusion,
    config: Config,
    data: PairedDataset,
    folders: Mapping[str, Path],
    run: Path,
    world: World,
    *,
    warm: Path | None,
    weights: Pretrained | None,
    texts: Callable[[], Loader],
) -> AdoptionReport | None:
    """Give a fresh model its weights; what became of pretrained `weights`, to the lead.

    `warm` is a verified checkpoint of another run; `texts` makes the loader that a posterior begins with, of whole steps. Raises
    InputError and CheckpointError as its parts do, on all ranks.
    """
    adopted: list[AdoptionReport] = []

    def led() -> None:
        fresh = model.posterior is not None
        if warm is not None:
            same_tokenizer(warm, read_identity(folders["tokenizer"]))
            same_projection(warm, data.manifest.projection if data.has_latents else None)
            fresh = start_from(model, warm)
        else:
            initialise(model, data, token_init=config.model.token_init, seed=config.training.seed)
            if weights is not None:
                adopted.append(begin(model, weights, config, load_tokenizer(folders["tokenizer"]), run))
        if fresh:
            start_posterior(model, texts(), behind_stage1=warm is not None)

    world.lead(led)
    world.share(weights_of(model).values())
    return adopted[0] if adopted else None
