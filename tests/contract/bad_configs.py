"""Configurations that must be refused: a table of YAML files and of words, and the key or file that the line names."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

ALIASES = "data: &a {max_samples: 1}\ntraining: *a\n"
BOMB = "".join([f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 9)}]\n" if i else "k0: &k0 [x, x, x, x, x, x, x, x, x]\n" for i in range(12)])


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 32 << 30)


FILES: dict[str, tuple[bytes | Callable[[Path], object], str]] = {
    "a target": (b"model: {_target_: os.system}", "model._target_"),
    "a target at the top": (b"_target_: os.system", "_target_"),
    "a target inside a list": (b"training: {sequential_schedule: [{_target_: os.system, type: l2t}]}", "_target_"),
    "a partial": (b"optimizer: {_partial_: true}", "optimizer._partial_"),
    "the environment": (b"data: {latent_dir: '${oc.env:HOME}'}", "data.latent_dir"),
    "the environment with a default": (b"training: {seed: '${oc.env:NONE,3}'}", "training.seed"),
    "a resolver inside a list": (b"prepare: {kinds: ['${oc.env:HOME}']}", "prepare.kinds"),
    "a resolver inside another": (b"training: {seed: '${oc.decode:${oc.env:SEED}}'}", "training.seed"),
    "a resolver of Hydra's": (b"logging: {save_dir: '${hydra:runtime.cwd}'}", "logging.save_dir"),
    "a resolver whose name is interpolated": (b"training: {seed: '${${logging.run_name}:x}'}", "training.seed"),
    "a key that names itself": (b"training: {seed: '${training.seed}'}", "training.seed"),
    "a key that is not there": (b"training: {seed: '${training.sede}'}", "training.seed"),
    "Hydra's own keys": (b"hydra: {run: {dir: /tmp/x}}", "hydra"),
    "Hydra's search path": (b"hydra: {searchpath: ['file:///etc']}", "hydra"),
    "a default outside": (b"defaults: [/etc/passwd]", "error"),
    "a default of Hydra's": (b"defaults: [default, {override hydra/launcher: joblib}, _self_]", "error"),
    "an unknown group": (b"trainin: {seed: 1}", "trainin"),
    "an unknown key": (b"training: {sede: 1}", "training.sede"),
    "another network's key": (b"model: {denoiser: mmdit, chunk: 3}", "model.chunk"),
    "an unknown network": (b"model: {denoiser: mmdit2}", "model.denoiser"),
    "a wrong type": (b"training: {seed: many}", "training.seed"),
    "a list for a number": (b"training: {seed: [1]}", "training.seed"),
    "a mapping for a number": (b"training: {seed: {a: 1}}", "training.seed"),
    "a date for a text": (b"logging: {run_name: 2020-01-01}", "logging.run_name"),
    "null for a number": (b"training: {seed: null}", "training.seed"),
    "not a number": (b"optimizer: {lr: .nan}", "optimizer.lr"),
    "infinity": (b"optimizer: {lr: .inf}", "optimizer.lr"),
    "beyond its bounds": (b"training: {num_epochs: 0}", "training.num_epochs"),
    "no choice of its": (b"loss: {loss_type: t2t}", "loss.loss_type"),
    "a key twice": (b"training: {seed: 1, seed: 2}", "yaml"),
    "a group twice": (b"training: {seed: 1}\ntraining: {seed: 2}", "own.yaml:2"),
    "an alias": (ALIASES.encode(), "own.yaml:2"),
    "a bomb of aliases": (BOMB.encode(), "own.yaml"),
    "a merge": (b"data: &a {max_samples: 1}\ntraining: {<<: *a}\n", "own.yaml"),
    "an object of Python": (b"training: !!python/object/apply:os.system [id]", "own.yaml"),
    "an unknown tag": (b"training: !mine {seed: 1}", "own.yaml"),
    "brackets": (b"training: " + b"[" * 100_000, "own.yaml"),
    "cut": (b"training: {seed: 1", "own.yaml"),
    "a tab": (b"training:\n\tseed: 1", "own.yaml"),
    "two documents": (b"training: {seed: 1}\n---\ntraining: {seed: 2}", "own.yaml"),
    "a list": (b"- training", "yaml"),
    "a word": (b"training", "yaml"),
    "Latin-1": (b"logging: {run_name: \xe9}", "offset 20"),
    "a zero byte": (b"training: {seed: 1}\0", "own.yaml"),
    "300 KB": (b"# " + b"x" * 300_000, "own.yaml"),
    "32 GiB": (lambda path: sparse(path), "own.yaml"),
    "not there": (lambda path: None, "own.yaml"),
    "a folder": (Path.mkdir, "own.yaml"),
    "a FIFO": (os.mkfifo, "own.yaml"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "own.yaml"),
}

WORDS: dict[str, tuple[tuple[str, ...], str]] = {
    "an unknown key": (("training.sede=1",), "training.sede"),
    "an unknown key alone": (("sede=1",), "seed"),
    "a key of another command": (("sampling.colour=1",), "sampling.colour"),
    "an unknown group": (("trainin.seed=1",), "trainin.seed"),
    "an added key": (("+training.more=1",), "+training.more"),
    "a forced key": (("++model._target_=os.system",), "_target_"),
    "a target": (("model._target_=os.system",), "model._target_"),
    "a deleted key": (("~training.seed",), "~training.seed"),
    "the environment": (("training.seed=${oc.env:HOME}",), "training.seed"),
    "the environment in JSON": (('training.mode_weights={"l2t": "${oc.env:HOME}"}',), "training.mode_weights"),
    "Hydra's own keys": (("hydra.run.dir=/tmp/x",), "hydra.run.dir"),
    "a value for a group": (("training=3",), "training"),
    "a network outside": (("model=../../etc/passwd",), "model"),
    "a configuration outside": (("--config-name", "../../etc/passwd"), "--config-name"),
    "no configuration": (("--config-name",), "--config-name"),
    "an unknown flag": (("--fall-back",), "--fallback"),
    "a word alone": (("seed",), "seed"),
    "no key": (("=1",), "unknown key"),
    "no value": (("training.seed=",), "training.seed"),
    "a wrong type": (("training.seed=many",), "training.seed"),
    "a number too large to be": (("training.seed=" + "9" * 5000,), "training.seed"),
    "not a number": (("optimizer.lr=nan",), "optimizer.lr"),
    "beyond its bounds": (("training.train_batch_size=0",), "training.train_batch_size"),
    "below its bounds": (("training.seed=-1",), "training.seed"),
    "no choice of its": (("loss.loss_type=t2t",), "loss.loss_type"),
    "cut JSON": (('training.sequential_schedule=[{"type": "l2t"',), "training.sequential_schedule"),
    "two spellings": (("loss.loss_type=l2t", "training.loss_type=t2l"), "loss_type"),
    "a path longer than any": (("data.latent_dir=" + "x" * 5000,), "..."),
    "no data": (("data.latent_dir=nowhere",), "data.latent_dir"),
    "no tokenizer of this name": (("tokenizer.path=bite",), "bite"),
}
