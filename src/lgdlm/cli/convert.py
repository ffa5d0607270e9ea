"""`lgdlm convert INPUT out=FOLDER`: per-sample files to shards, shards to files, wide latents to narrow ones; RWKV-7 weights."""

from __future__ import annotations

from pathlib import Path

from lgdlm.cli import convert_weights
from lgdlm.cli.prepare import Stages
from lgdlm.cli.progress import say
from lgdlm.config import Config
from lgdlm.errors import InputError
from lgdlm.training.splits import named_tokenizer


def run(config: Config) -> int:
    """Exit code 0, also where the folder was converted already."""
    from lgdlm.data.convert import convert
    from lgdlm.data.manifest import holds_data
    from lgdlm.data.summary import describe
    from lgdlm.data.vectors import AUTO

    p, data = config.prepare, config.data
    source = p.input or data.latent_dir
    for name, value in (("prepare.input", source), ("prepare.out", p.out)):
        if not value:
            message = "expected a path; lgdlm convert INPUT out=FOLDER layout=packed|samples|rwkv|hf|run"
            raise InputError("CONFIG", "command-line", name, message)
    if p.layout in convert_weights.LAYOUTS:
        if holds_data(Path(source)):
            message = f"{p.layout} is a layout of weights, and this is a data folder; use packed or samples"
            raise InputError("CONFIG", source, "prepare.layout", message)
        return convert_weights.run(config, source, p.out)
    if Path(source).is_file():
        message = f"{p.layout} is a layout of data, and the input is a file; weights go to {', '.join(convert_weights.LAYOUTS)}"
        raise InputError("CONFIG", source, "prepare.layout", message)
    if p.latent_dim is not None and p.projection == "identity":
        message = f"latent_dim={p.latent_dim} needs projection=pca or projection=matryoshka"
        raise InputError("CONFIG", "command-line", "prepare.projection", message)
    projection = "pca" if p.projection == AUTO else None if p.projection == "identity" else p.projection
    tokenizer = named_tokenizer(config)
    with Stages() as stages:
        done = convert(
            source,
            p.out,
            layout=p.layout,
            token_dir=data.token_dir or None,
            tokenizer=tokenizer,
            projection=projection,
            latent_dim=p.latent_dim,
            external_latents=data.use_external_latents,
            overwrite=p.overwrite,
            on_progress=stages,
        )
    say(f"{'converted' if done.fresh else 'already converted'}: {done.folder}")
    for line in describe(done.manifest):
        say(line)
    return 0
