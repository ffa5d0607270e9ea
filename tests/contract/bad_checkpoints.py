"""Checkpoints that must be refused: damage that the hashes find, and lies that are told with right hashes.

sealed(checkpoint)    the manifest again, as its writer would make it: what is wrong then is what the files say
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

TENSORS = ("model.safetensors", "ema.safetensors", "optimizer.safetensors")
FILES = (*TENSORS, "state.json", "config.yaml", "manifest.json")
GIB = 1 << 30


@dataclass(frozen=True)
class Fixture:
    """A damage to a checkpoint folder, and what the error line names. `heavy`: it claims more memory than it may get."""

    damage: Callable[[Path], object]
    names: str
    heavy: bool = False


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(data))


def flips(checkpoint: Path, count: int, seed: int) -> Iterator[tuple[str, int]]:
    """(file, bit): half of them spread evenly over the bytes, half over the files, so that small files have their share."""
    rng = random.Random(seed)
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    sizes = [path.stat().st_size for path in files]
    for i in range(count):
        path = rng.choices(files, sizes)[0] if i % 2 else rng.choice(files)
        yield path.relative_to(checkpoint).as_posix(), rng.randrange(path.stat().st_size * 8)


def cuts(checkpoint: Path) -> Iterator[tuple[str, int]]:
    """(file, bytes that are left): many lengths of every file, the ends of its header among them."""
    for path in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
        size = path.stat().st_size
        lengths = {0, 1, 7, 8, 9, 64, size // 3, size // 2, size - 8, size - 2}
        if path.suffix != ".json":  # which ends in a line feed
            lengths.add(size - 1)
        if path.suffix == ".safetensors":
            header = int.from_bytes(path.read_bytes()[:8], "little")
            lengths |= {8 + header - 1, 8 + header, 8 + header + 1}
        for length in sorted(n for n in lengths if 0 <= n < size):
            yield path.relative_to(checkpoint).as_posix(), length


def sealed(checkpoint: Path) -> None:
    """Write the manifest of the files as they are now."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    del manifest["sha256"]
    for name in manifest["files"]:
        data = (checkpoint / name).read_bytes()
        manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    seal(checkpoint, manifest)


def seal(checkpoint: Path, manifest: dict[str, Any]) -> None:
    own = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (checkpoint / "manifest.json").write_text(json.dumps({**manifest, "sha256": own}))


def lie(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Other bytes in a file, with a manifest that agrees."""

    def damage(checkpoint: Path) -> None:
        (checkpoint / name).write_bytes(change((checkpoint / name).read_bytes()))
        sealed(checkpoint)

    return damage


def rewritten(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Other bytes in a file, and a manifest that does not know of it."""

    def damage(checkpoint: Path) -> None:
        (checkpoint / name).write_bytes(change((checkpoint / name).read_bytes()))

    return damage


def retold(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """A manifest that says something else, with a hash that agrees."""

    def damage(checkpoint: Path) -> None:
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        del manifest["sha256"]
        change(manifest)
        seal(checkpoint, manifest)

    return damage


def tensors(
    change: Callable[[dict[str, torch.Tensor]], object], name: str = "model.safetensors", own_hash: bool = True
) -> Callable[[Path], None]:
    """Other tensors, with hashes that agree; without `own_hash` the manifest's hash of itself is what it was."""

    def damage(checkpoint: Path) -> None:
        held, before = load_file(checkpoint / name), json.loads((checkpoint / "manifest.json").read_text())["sha256"]
        change(held)
        save_file(held, checkpoint / name)
        sealed(checkpoint)
        if not own_hash:
            manifest = json.loads((checkpoint / "manifest.json").read_text())
            (checkpoint / "manifest.json").write_text(json.dumps({**manifest, "sha256": before}))

    return damage


def config(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(data: bytes) -> bytes:
        values = yaml.safe_load(data)
        change(values)
        return yaml.safe_dump(values).encode()

    return lie("config.yaml", edit)


def header(change: Callable[[dict[str, Any]], object], pad: int = 0) -> Callable[[bytes], bytes]:
    """Another safetensors header over the same data; `pad` is added to the length that it claims."""

    def edit(data: bytes) -> bytes:
        size = int.from_bytes(data[:8], "little")
        described = json.loads(data[8 : 8 + size])
        change(described)
        text = json.dumps(described).encode()
        return struct.pack("<Q", len(text) + pad) + text + data[8 + size :]

    return edit


def first(described: dict[str, Any]) -> dict[str, Any]:
    return described[min(name for name in described if name != "__metadata__")]


def replaced(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(checkpoint: Path) -> None:
        (checkpoint / name).unlink()
        make(checkpoint / name)

    return damage


def swapped(one: str, other: str) -> Callable[[Path], None]:
    def damage(checkpoint: Path) -> None:
        held = (checkpoint / one).read_bytes()
        (checkpoint / one).write_bytes((checkpoint / other).read_bytes())
        (checkpoint / other).write_bytes(held)

    return damage


def resealed(damage: Callable[[Path], object]) -> Callable[[Path], None]:
    return lambda checkpoint: (damage(checkpoint), sealed(checkpoint))[-1]


MEAN, MASK = "latent_mean", "denoiser.embedding.mask"
M, C, S, E, OPT = "model.safetensors", "config.yaml", "state.json", "ema.safetensors", "optimizer.safetensors"
MOMENT = f"{MASK}|exp_avg"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9))
GREEDY = {"hidden_size": 1 << 20}

CHECKPOINTS: dict[str, Fixture] = {
    **{f"{name} missing": Fixture(replaced(name, lambda path: None), name) for name in FILES},
    **{f"{name} empty": Fixture(rewritten(name, lambda data: b""), name) for name in FILES},
    **{f"{name} is a folder": Fixture(replaced(name, Path.mkdir), name) for name in FILES},
    **{f"{name} is a FIFO": Fixture(replaced(name, os.mkfifo), name) for name in FILES},
    **{f"{name} is a device": Fixture(replaced(name, lambda p: p.symlink_to("/dev/zero")), name) for name in FILES},
    **{f"{name} is longer": Fixture(rewritten(name, lambda data: data + b"\n"), name) for name in FILES if name != "manifest.json"},
    "weights and averages changed places": Fixture(swapped(M, "ema.safetensors"), "ema.safetensors"),
    "averages and moments changed places": Fixture(swapped("ema.safetensors", "optimizer.safetensors"), "ema.safetensors"),
    "state and configuration changed places": Fixture(swapped(S, C), C),
    "the checkpoint of another step": Fixture(lambda c: shutil.copytree(c.with_name("step_00000002"), c, dirs_exist_ok=True), "got 4"),
    "the tokenizer lost": Fixture(lambda c: (c / "tokenizer/vocabulary.json").unlink(), "vocabulary.json"),
    "weights and averages changed places, with right hashes": Fixture(resealed(swapped(M, "ema.safetensors")), M),
    "the manifest cut": Fixture(rewritten("manifest.json", lambda d: d[:-40]), "manifest.json"),
    "the manifest in lists": Fixture(rewritten("manifest.json", lambda d: b"[" * 100_000), "manifest.json"),
    "the manifest says a name twice": Fixture(
        rewritten("manifest.json", lambda d: d.replace(b'"step"', b'"step": 9, "step"', 1)), "manifest.json"
    ),
    "a manifest of another schema": Fixture(retold(lambda m: m.update(schema=99)), "manifest.json"),
    "a manifest without weights": Fixture(retold(lambda m: m["files"].pop(M)), "manifest.json"),
    "a manifest of a file outside": Fixture(retold(lambda m: m["files"].update({"../x": {"bytes": 0, "sha256": ""}})), "manifest.json"),
    "a manifest of a file of the system": Fixture(
        retold(lambda m: m["files"].update({"/etc/hostname": {"bytes": 0, "sha256": ""}})), "manifest.json"
    ),
    "a manifest of a name without end": Fixture(retold(lambda m: m["files"].update({"x" * 9000: {"bytes": 0, "sha256": ""}})), "xxx"),
    "a manifest of a name too long": Fixture(retold(lambda m: m["files"].update({"x" * 300: {"bytes": 0, "sha256": ""}})), "xxx"),
    "a manifest of a name too long, by an outsider": Fixture(
        rewritten("manifest.json", lambda d: d.replace(b'"files": {', b'"files": {"' + b"x" * 300 + b'": {"bytes": 0, "sha256": ""},')),
        "manifest.json",
    ),
    "a manifest of 2 ** 60 bytes": Fixture(retold(lambda m: m["files"][M].update(bytes=1 << 60)), M, heavy=True),
    "a manifest of another step": Fixture(retold(lambda m: m.update(step=3)), S),
    "a manifest of more processes": Fixture(retold(lambda m: m.update(world_size=2)), S),
    "a manifest without a step": Fixture(retold(lambda m: m.pop("step")), "manifest.json"),
    "a header that claims 2 ** 63 bytes": Fixture(lie(M, lambda d: struct.pack("<Q", 1 << 63) + d[8:]), M, heavy=True),
    "a header that claims 1 GiB": Fixture(lie(M, lambda d: struct.pack("<Q", GIB) + d[8:]), M, heavy=True),
    "a header longer than it is": Fixture(lie(M, header(lambda h: None, pad=64)), M),
    "a header that is no JSON": Fixture(
        lie(M, lambda d: d[:8] + b"{" * int.from_bytes(d[:8], "little") + d[8 + int.from_bytes(d[:8], "little") :]), M
    ),
    "a tensor that claims 32 GiB": Fixture(lie(M, header(lambda h: first(h).update(shape=[8 * GIB]))), M, heavy=True),
    "a tensor behind the end": Fixture(lie(M, header(lambda h: first(h).update(data_offsets=[1 << 40, 1 << 41]))), M, heavy=True),
    "a tensor over another": Fixture(lie(M, header(lambda h: first(h).update(data_offsets=[4, first(h)["data_offsets"][1] + 4]))), M),
    "a negative shape": Fixture(lie(M, header(lambda h: first(h).update(shape=[-1, -4]))), M),
    "an unknown type": Fixture(lie(M, header(lambda h: first(h).update(dtype="OBJECT"))), M),
    "a tensor without a name of ours": Fixture(tensors(lambda t: t.update({"denoiser.more": torch.zeros(1)})), "denoiser.more"),
    "a tensor less": Fixture(tensors(lambda t: t.pop(MASK)), MASK),
    "another shape": Fixture(tensors(lambda t: t.update({MASK: torch.zeros(17)})), MASK),
    "another type": Fixture(tensors(lambda t: t.update({MASK: t[MASK].double()})), MASK),
    "integers for weights": Fixture(tensors(lambda t: t.update({MASK: t[MASK].long()})), MASK),
    "NaN in the weights": Fixture(tensors(lambda t: t[MASK].fill_(float("nan"))), MASK),
    "infinity in the averages": Fixture(tensors(lambda t: t[MASK].fill_(float("inf")), "ema.safetensors"), MASK),
    **{
        f"a {what} that an outsider wrote into {name}": Fixture(tensors(change, name, own_hash=False), key)
        for name, key in ((M, MASK), (E, MASK), (OPT, MOMENT))
        for what, change in (
            ("shape", lambda t, key=key: t.update({key: torch.zeros(17)})),
            ("NaN", lambda t, key=key: t[key].fill_(float("nan"))),
            ("type", lambda t, key=key: t.update({key: t[key].long()})),
        )
    },
    "a moment of no parameter": Fixture(tensors(lambda t: t.update({"more|exp_avg": t.pop(MOMENT)}), OPT), "more"),
    "a moment of another shape": Fixture(tensors(lambda t: t.update({MOMENT: torch.zeros(17)}), OPT), MASK),
    "a moment of integers": Fixture(tensors(lambda t: t.update({MOMENT: t[MOMENT].long()}), OPT), MASK),
    "a step of many numbers": Fixture(tensors(lambda t: t.update({f"{MASK}|step": torch.zeros(2)}), OPT), MASK),
    "averages of integers": Fixture(tensors(lambda t: t.update({MASK: t[MASK].long()}), E), MASK),
    "no statistics": Fixture(tensors(lambda t: t.pop(MEAN)), MEAN),
    "statistics of another width": Fixture(tensors(lambda t: t.update({MEAN: torch.zeros(5)})), C),
    "a pickle for weights": Fixture(lie(M, lambda d: b"\x80\x04N."), M),
    "a state of NaN": Fixture(lie(S, lambda d: d.replace(b'"seconds": ', b'"seconds": NaN, "x": ')), S),
    "a state that says a name twice": Fixture(lie(S, lambda d: d.replace(b'"step"', b'"step": 4, "step"')), S),
    "a state that is a list": Fixture(lie(S, lambda d: b"[4]"), S),
    "a state of another step": Fixture(lie(S, lambda d: d.replace(b'"step": 4', b'"step": 400')), S),
    "a configuration with an unknown key": Fixture(config(lambda v: v["training"].update(sede=1)), "training.sede"),
    "a configuration with a target": Fixture(config(lambda v: v["model"].update(_target_="os.system")), "model._target_"),
    "a configuration with an object": Fixture(lie(C, lambda d: d + b"x: !!python/object/apply:os.system [id]\n"), C),
    "a configuration of aliases": Fixture(lie(C, lambda d: BOMB.encode()), C, heavy=True),
    "a configuration in Latin-1": Fixture(lie(C, lambda d: d + b"# \xe9\n"), C),
    "a configuration of another width": Fixture(config(lambda v: v["model"].update(hidden_size=32)), "shape"),
    "a configuration of a petabyte": Fixture(config(lambda v: v["model"].update(GREEDY)), "shape", heavy=True),
    "a configuration of a billion blocks": Fixture(config(lambda v: v["model"].update(n_blocks=10**9)), C, heavy=True),
    "a configuration that cannot be": Fixture(config(lambda v: v["model"].update(hidden_size=17)), C),
    "a tokenizer with another identity": Fixture(
        lie("tokenizer/tokenizer_identity.json", lambda d: d.replace(b'"vocab_size": 256', b'"vocab_size": 255')), "tokenizer"
    ),
    "a tokenizer of another kind": Fixture(lie("tokenizer/tokenizer_identity.json", lambda d: d.replace(b'"byte"', b'"pickle"')), "kind"),
    "a vocabulary of numbers": Fixture(lie("tokenizer/vocabulary.json", lambda d: b"[1, 2, 3]"), "vocabulary"),
}
