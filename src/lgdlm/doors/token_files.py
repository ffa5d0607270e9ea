"""The tokenizing command: the texts of a list to token files, one a text.

    preprocess_tokenize_text.py --json_path DATA/train_data.json --output_dir TOKENS --tokenizer BlinkDL/rwkv7-g1 --max_length 512
    TOKENS/train/<stem>.npz       input_ids int64 [S], attention_mask [S]: the stem of the entry's latent
    TOKENS/tokenizer/             which tokenizer it was, for training

A text longer than `max_length` is cut there and counted; nothing is padded. The folder of the split appears when all of it is written.
"""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath

import numpy as np

from lgdlm.cli.progress import progress, say
from lgdlm.compat import VALUES
from lgdlm.data.problems import refuse
from lgdlm.data.sample_index import SampleEntry, list_name, read_entries
from lgdlm.data.storage import ASIDE, make_folder, storage
from lgdlm.data.tokenizer import TOKENIZERS, Tokenizer, load_tokenizer, make_tokenizer
from lgdlm.doors.flags import Flag, Given, run_flags
from lgdlm.errors import InputError

BLOCK = 1024
FLAGS = (
    Flag("json_path", required=True, help="DATA/train_data.json or DATA/validation_data.json"),
    Flag("output_dir", required=True, help="folder of the tokens"),
    Flag("tokenizer", default="BlinkDL/rwkv7-g1", help="BlinkDL/rwkv7-g1 (the packaged World vocabulary), rwkv, byte, or a local folder"),
    Flag("max_length", int, 512, help="tokens of a text; a longer one is cut"),
    Flag("workers", int, help="means nothing any more: encoding is compiled, in one process"),
    Flag("cache_dir", help="means nothing any more: nothing is downloaded"),
    Flag("local_files_only", bool, help="always so"),
    Flag("trust_remote_code", bool, help="never: no code of a repository is run"),
)


def preprocess_tokenize_text() -> int:
    """The exit code of `rwkv_diffusion_rnn/preprocess_tokenize_text.py`."""
    return run_flags("Texts to token files.", FLAGS, _tokenize)


def _tokenize(given: Given) -> int:
    if given.words:
        raise InputError("USAGE", "command-line", given.words[0], "this command has flags only")
    for flag, why in (("workers", "encoding is compiled, in one process"), ("cache_dir", "nothing is downloaded")):
        if given[flag] is not None:
            say(f"note: --{flag} {given[flag]} is ignored: {why}")
    if given["trust_remote_code"]:
        say("note: --trust_remote_code is ignored: no code of a repository is ever run")
    if given["max_length"] < 1:
        raise InputError("USAGE", "command-line", "--max_length", f"at least 1 is expected, got {given['max_length']}")
    path, out = Path(given["json_path"]), Path(given["output_dir"])
    entries = _entries(path)
    tokenizer = named(given["tokenizer"])
    if (out / "tokenizer").is_dir() and load_tokenizer(out / "tokenizer").identity() != tokenizer.identity():
        raise InputError("TOKENIZER", out / "tokenizer", "--tokenizer", "holds tokens of another tokenizer; choose another --output_dir")
    cut = write_tokens(entries, out, split_of(path), tokenizer, given["max_length"])
    tokenizer.save(out / "tokenizer")
    say(f"tokens of {len(entries)} texts: {out / split_of(path)}; {cut} longer than {given['max_length']} tokens and cut there")
    return 0


def named(name: str) -> Tokenizer:
    """The tokenizer that a name or a local folder means. Raises InputError (UNKNOWN_VALUE) for one that would have to be fetched."""
    today = VALUES["tokenizer.path"].get(name, name)
    if Path(today).exists():
        return make_tokenizer("hf", path=today)
    if today not in TOKENIZERS or today in ("hf", "rwkv_compact"):
        message = f"{name!r} is no local folder; nothing is fetched: use BlinkDL/rwkv7-g1, rwkv, byte, or the folder of a tokenizer"
        raise InputError("UNKNOWN_VALUE", "command-line", "--tokenizer", message)
    return make_tokenizer(today)


def split_of(path: Path) -> str:
    """`train` of train_data.json."""
    return path.name.removesuffix("_data.json")


def _entries(path: Path) -> list[SampleEntry]:
    if not path.name.endswith("_data.json") or not split_of(path):
        message = f"a list is called {list_name('train')} or {list_name('validation')}, got {path.name}"
        raise InputError("USAGE", path, "--json_path", message)
    problems: list[InputError] = []
    entries, _ = read_entries(path.parent, split_of(path), problems.append, with_latents=False)
    refuse(problems)
    return entries


def write_tokens(entries: list[SampleEntry], out: Path, split: str, tokenizer: Tokenizer, max_length: int) -> int:
    """Write `out/split/<stem>.npz` for every entry; how many texts were cut. Raises InputError: DUPLICATE_STEM, NO_TOKENS."""
    names: dict[str, SampleEntry] = {}
    for entry in entries:
        name = token_name(entry, split)
        if name in names:
            raise InputError(
                "DUPLICATE_STEM", entry.where, entry.id, f"its tokens {name} are those of {names[name].id} as well; stems differ"
            )
        names[name] = entry
    aside, cut = out / f"{ASIDE}{split}", 0
    shutil.rmtree(aside, ignore_errors=True)
    make_folder(aside)
    listed = list(names.items())
    with storage(aside), progress(len(listed), "tokenizing") as bar:
        for start in range(0, len(listed), BLOCK):
            part = listed[start : start + BLOCK]
            for (name, entry), ids in zip(part, tokenizer.encode_batch([e.text for _, e in part]), strict=True):
                if not ids:
                    raise InputError("NO_TOKENS", entry.where, entry.id, "the text has no token; leave it out")
                cut += len(ids) > max_length
                kept = np.asarray(ids[:max_length], np.int64)
                make_folder((aside / name).parent)
                np.savez(aside / name, input_ids=kept, attention_mask=np.ones_like(kept))
            bar.advance(len(part))
        shutil.rmtree(out / split, ignore_errors=True)
        aside.rename(out / split)
    return cut


def token_name(entry: SampleEntry, split: str) -> str:
    """Where the loader looks for an entry's tokens below the split: beside nothing, or in the subfolder of its latent."""
    below = PurePosixPath(entry.latent_path or entry.stem).parent.parts
    inner = PurePosixPath(*below[2:]) if below[:2] == ("latents", split) else PurePosixPath()
    return str(inner / f"{entry.stem}.npz")
