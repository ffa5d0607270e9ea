"""`lgdlm prepare`: text to tokens and latents, with a bar for every stage and a summary of what was kept and dropped."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from lgdlm.cli.progress import progress, say
from lgdlm.config import Config
from lgdlm.errors import InputError

if TYPE_CHECKING:
    from lgdlm.data.tokenizer import Tokenizer


def run(config: Config) -> int:
    """Exit code 0, also where the folder was prepared already."""
    from lgdlm.data.prepare import prepare
    from lgdlm.data.tokenizer import TOKENIZERS

    p = config.prepare
    if p.source != "file" and p.input is not None:
        message = f"source={p.source} brings its own texts; add source=file to read {p.input}"
        raise InputError("CONFIG", "command-line", "prepare.input", message)
    named = p.tokenizer in TOKENIZERS
    if not named and not Path(p.tokenizer).exists():
        expected = f"one of {', '.join(TOKENIZERS)} or the folder of a tokenizer"
        raise InputError("CONFIG", "command-line", "prepare.tokenizer", f"expected {expected}, got {p.tokenizer!r}")
    with Stages() as stages:
        done = prepare(
            p.source,
            p.out,
            path=p.input,
            kinds=p.kinds or None,
            validation_kinds=p.validation_kinds or None,
            tokenizer=p.tokenizer if named else "hf",
            tokenizer_path=None if named else p.tokenizer,
            vocab_size=p.vocab_size,
            encoder=None if p.encoder == "none" else p.encoder,
            family=None if p.family == "auto" else p.family,
            latents=p.latents,
            projection=p.projection,
            latent_dim=p.latent_dim,
            min_tokens=p.min_tokens,
            max_tokens=p.max_tokens,
            validation=p.validation,
            seed=p.seed,
            limit=p.limit,
            layout=p.layout,
            overwrite=p.overwrite,
            on_progress=stages,
        )
    from lgdlm.data.summary import describe

    say(f"{'prepared' if done.fresh else 'already prepared'}: {done.folder}")
    for line in describe(done.manifest):
        say(line)
    return 0


def tokenizer_of(config: Config) -> Tokenizer | None:
    """The tokenizer that `tokenizer.path` names, or None; torch is loaded only where one is named."""
    if config.tokenizer.path is None:
        return None
    from lgdlm.training.assemble import named_tokenizer

    return named_tokenizer(config)


class Stages:
    """A bar for each stage as it begins: the callback `on_progress(stage, done, total)` of long work."""

    def __init__(self) -> None:
        self._stack, self._stage, self._done = ExitStack(), "", 0

    def __enter__(self) -> Stages:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage or done < self._done:
            self._stack.close()
            self._stage, self._done = stage, 0
            self._bar = self._stack.enter_context(progress(total, stage))
        self._bar.advance(done - self._done)
        self._done = done
