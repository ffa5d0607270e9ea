"""The preparation command: texts with the vectors of an embedding model, in the per-sample layout.

    prepare_data_multi_gpu.py --output-dir OUT --datasets D [D ...] --latent-model e5      ->   lgdlm prepare prepare.layout=samples

A dataset is a file or folder of yours (see `lgdlm prepare source=file`) or a packaged corpus by its name; nothing is fetched from the
net. An embedding model is a folder, or one of five names for what the local cache of the hub holds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from lgdlm.cli import prepare
from lgdlm.cli.compose import compose
from lgdlm.cli.progress import say
from lgdlm.data.storage import make_folder, write_aside
from lgdlm.doors.flags import Flag, Given, run_flags
from lgdlm.errors import InputError

# name: (repository of the hub, family of encoders)
ENCODERS = {
    "t5": ("sentence-transformers/sentence-t5-base", "t5"),
    "sonar": ("cointegrated/SONAR_200_text_encoder", "sonar-port"),
    "e5": ("intfloat/e5-base-v2", "e5"),
    "qwen": ("Qwen/Qwen3-Embedding-0.6B", "qwen3-embedding"),
    "bge": ("BAAI/bge-base-en-v1.5", "bge"),
}
FLAGS = (
    Flag("output_dir", required=True, help="folder to write"),
    Flag("datasets", list, required=True, help="files or folders of texts, or wordnet, wiki, bible"),
    Flag("latent_model", required=True, help=f"{', '.join(ENCODERS)}, minilm (packaged), or the folder of a model"),
    Flag("batch_size", int, help="means nothing any more: texts are encoded in batches of similar length"),
    Flag("max_samples", int, help="texts of each dataset"),
    Flag("resume", bool, help="always so: the same command goes on where it was stopped"),
    Flag("create_validation", bool, help="hold texts out"),
    Flag("val_ratio", float, 0.05, help="share of the texts that are held out"),
)


def prepare_data_multi_gpu() -> int:
    """The exit code of `preprocessed_data/prepare_data_multi_gpu.py`."""
    return run_flags("Texts to latents and tokens.", FLAGS, _prepare)


def _prepare(given: Given) -> int:
    if os.environ.get("RANK", "0") != "0":
        return 0  # one process writes a data folder
    if given["batch_size"] is not None:
        say(f"note: --batch-size {given['batch_size']} is ignored: texts are encoded in batches of similar length")
    encoder, family = located(given["latent_model"])
    asked = {"layout": "samples", "out": given["output_dir"], "tokenizer": "rwkv", "encoder": encoder, "family": family}
    asked["validation"] = str(given["val_ratio"] if given["create_validation"] else 0)
    if len(given["datasets"]) == 1:
        asked |= _source(given["datasets"][0])
        asked |= {} if given["max_samples"] is None else {"limit": str(given["max_samples"])}
        return prepare.run(compose([*(f"prepare.{name}={value}" for name, value in asked.items()), *given.words]))
    path = Path(f"{given['output_dir'].rstrip('/')}.texts.jsonl")  # its place is part of what `prepare` recognises when it goes on
    make_folder(path.absolute().parent)
    with write_aside(path) as file:
        for row in merged(given["datasets"], given["max_samples"]):
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
    asked |= {"source": "file", "input": str(path)}
    return prepare.run(compose([*(f"prepare.{name}={value}" for name, value in asked.items()), *given.words]))


def located(name: str) -> tuple[str, str]:
    """The folder of an embedding model (or the name of a packaged one) and its family. Raises InputError: OFFLINE, UNKNOWN_VALUE."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    from lgdlm.data.encoder import PACKAGED

    if name in PACKAGED or Path(name).is_dir():
        return name, "auto"
    if name not in ENCODERS:
        message = f"expected {', '.join([*ENCODERS, *PACKAGED])} or the folder of a model, got {name!r}"
        raise InputError("UNKNOWN_VALUE", "command-line", "--latent-model", message)
    repository, family = ENCODERS[name]
    try:
        return snapshot_download(repository, local_files_only=True, cache_dir=constants.HF_HUB_CACHE), family
    except LocalEntryNotFoundError:
        message = f"{repository} is not in the local cache of the hub; give the folder of a model instead: --latent-model FOLDER"
        raise InputError("OFFLINE", "command-line", "--latent-model", message) from None


def _source(name: str) -> dict[str, str]:
    """The keys of `prepare` that mean one dataset. Raises InputError (UNKNOWN_VALUE)."""
    from lgdlm.data.corpus import SOURCES

    if Path(name).exists():
        return {"source": "file", "input": name}
    if name in SOURCES:
        return {"source": name}
    message = f"{name!r} is neither a file or folder here nor one of {', '.join(SOURCES)}; nothing is fetched: save the dataset and name it"
    raise InputError("UNKNOWN_VALUE", "command-line", "--datasets", message)


def merged(names: list[str], count: int | None) -> Iterator[dict[str, str]]:
    """The texts of several datasets, at most `count` of each, with the dataset in front of their ids."""
    from lgdlm.data.corpus import read_corpus

    for name in names:
        asked = _source(name)
        corpus = read_corpus(asked["source"], path=asked.get("input"))
        for text in islice(corpus, count):
            yield {"id": f"{Path(name).name}_{text.id}", "text": text.text, "dataset": Path(name).name}
