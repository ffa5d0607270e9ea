"""`lgdlm prepare`: text to tokens and latents, with a bar for every stage and a summary of what was kept and dropped."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from lgdlm.cli.progress import progress, say
from lgdlm.config import Config
from lgdlm.errors import InputError


def run(config: Config) -> int:
    """Exit code 0, also where the folder was prepared already."""
    from lgdlm.data.encoder import check_encoder
    from lgdlm.data.prepare import prepare
    from lgdlm.data.projection import PROJECTIONS
    from lgdlm.data.tokenizer import TOKENIZERS
    from lgdlm.data.vectors import AUTO

    p = config.prepare
    if p.layout not in ("packed", "samples"):
        raise InputError(
            "CONFIG", "command-line", "prepare.layout", f"{p.layout} is a layout of weights, for convert; use packed or samples"
        )
    of_files = {"input": p.input, "text_field": p.text_field, "id_field": p.id_field, "split": p.split}
    for name, value in ({"language": p.language} if p.source == "file" else of_files).items():
        if value is not None:
            message = f"does not go with source={p.source}, which brings its own texts; add source=file to read yours"
            raise InputError("CONFIG", "command-line", f"prepare.{name}", "belongs to source=wiki" if p.source == "file" else message)
    for name, value, table in (("tokenizer", p.tokenizer, TOKENIZERS), ("projection", p.projection, {AUTO: None, **PROJECTIONS})):
        if value not in table and not Path(value).exists():
            message = f"expected one of {', '.join(table)} or the folder of a {name}, got {value!r}"
            raise InputError("CONFIG", "command-line", f"prepare.{name}", message)
    if p.latents is None and p.encoder != "none":
        check_encoder(p.encoder)
    named = p.tokenizer in TOKENIZERS
    with Stages() as stages:
        done = prepare(
            p.source,
            p.out,
            path=p.input,
            corpus_options=_given(text_field=p.text_field, id_field=p.id_field, split=p.split, language=p.language),
            kinds=p.kinds or None,
            validation_kinds=p.validation_kinds or None,
            tokenizer=p.tokenizer if named else "hf",
            tokenizer_path=None if named else p.tokenizer,
            vocab_size=p.vocab_size,
            encoder=None if p.encoder == "none" else p.encoder,
            family=None if p.family == "auto" else p.family,
            encoder_options=_given(
                role=p.encoder_role,
                instruction=p.encoder_instruction,
                language=p.encoder_language,
                dtype=None if p.encoder_dtype == "auto" else p.encoder_dtype,
            ),
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
            engine=p.engine,
            num_workers=p.num_workers,
            on_progress=stages,
        )
    from lgdlm.data.summary import describe

    say(f"{'prepared' if done.fresh else 'already prepared'}: {done.folder}")
    for line in describe(done.manifest):
        say(line)
    if not done.manifest.counts.get("validation", {}).get("rows"):
        say("  note: no validation texts: training will refuse this folder; prepare it with validation=N to hold some out")
    return 0


def _given(**options: str | None) -> dict[str, str]:
    """The options that were set."""
    return {name: value for name, value in options.items() if value is not None}


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
