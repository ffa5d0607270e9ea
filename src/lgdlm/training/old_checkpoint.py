"""A checkpoint of an earlier system, read as tensors or not at all.

    {"model_state_dict": {...}, "optimizer_state_dict", "state": {"step"}, "config"}     or the table of tensors alone
    names below any prefix (model., module., _orig_mod.)  ->  ours      every tensor of a model of ours
                                                          ->  stack     an RWKV-7 stack under published or Hugging Face names

A network of another build (the `mmdit` package's, for one) has no counterpart here tensor by tensor: it is refused, not guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from lgdlm.data.storage import make_folder, write_bytes
from lgdlm.data.tokenizer import load_tokenizer
from lgdlm.data.tokenizer_identity import FILE as IDENTITY
from lgdlm.errors import CheckpointError, InputError
from lgdlm.models.pretrained import read_torch_file
from lgdlm.training.old_spelling import old_weights

TABLES = ("model_state_dict", "state_dict", "model")
STACKS = re.compile(r"(.*?)(?:blocks\.0\.att\.receptance\.weight|(?:model\.)?layers\.0\.attn\.r_proj\.weight)")
STATISTICS = re.compile(r"(.*?)latent_mean")
STACK_FILE = "old_weights.safetensors"


@dataclass(frozen=True)
class OldCheckpoint:
    """`tensors` under the names of the file, after `step` optimizer steps (0 where it does not say)."""

    source: Path
    tensors: dict[str, Tensor]
    step: int

    def ours(self) -> dict[str, Tensor] | None:
        """The tensors under a model's own names, where the file is of a model of ours; None otherwise."""
        return self._below(STATISTICS)

    def stack(self) -> dict[str, Tensor] | None:
        """The tensors beside an RWKV-7 stack, under the stack's own names; None where there is none, or several."""
        return self._below(STACKS)

    def _below(self, mark: re.Pattern[str]) -> dict[str, Tensor] | None:
        prefixes = {match[1] for name in self.tensors if (match := mark.fullmatch(name))}
        if len(prefixes) != 1:
            return None
        (prefix,) = prefixes
        return {name.removeprefix(prefix): tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}

    def refusal(self) -> CheckpointError:
        """Why nothing of it can be used."""
        names = sorted(self.tensors)
        message = (
            f"{len(names)} tensors ({', '.join(names[:2])}, ...) are those of another network, and ours has no place for them: train anew,"
            " or take its RWKV-7 weights alone"
        )
        return CheckpointError("CHECKPOINT", self.source, "model_state_dict", message)


def read_old(path: Path) -> OldCheckpoint:
    """The checkpoint at `path`, a file or its folder. Raises CheckpointError where it holds more than tensors, numbers and texts."""
    file = old_weights(path)
    assert file is not None, "the caller has looked"
    try:
        content = read_torch_file(file)
    except InputError as problem:
        raise CheckpointError(problem.code, problem.where, problem.field, problem.message) from problem
    table = next((content[name] for name in TABLES if isinstance(content.get(name), dict)), content) if isinstance(content, dict) else None
    tensors = {str(name): t for name, t in table.items() if isinstance(t, Tensor)} if isinstance(table, dict) else {}
    if not tensors:
        raise CheckpointError("CHECKPOINT", file, "model_state_dict", "holds no table of named tensors")
    return OldCheckpoint(file, tensors, _step(content))


def write_stack(old: OldCheckpoint, folder: Path) -> Path:
    """The file `folder/old_weights.safetensors` with the RWKV-7 stack alone, and the tokenizer that lies beside the checkpoint.

    Raises CheckpointError where there is no stack.
    """
    stack = old.stack()
    if stack is None:
        raise old.refusal()
    make_folder(folder)
    if (old.source.parent / IDENTITY).is_file():
        load_tokenizer(old.source.parent).save(folder)
    write_bytes(folder / STACK_FILE, save({name: t.detach().contiguous().clone() for name, t in stack.items()}))
    return folder / STACK_FILE


def _step(content: object) -> int:
    states: Iterable[object] = (content, content.get("state")) if isinstance(content, dict) else ()
    found = [state.get(name) for state in states if isinstance(state, dict) for name in ("step", "global_step")]
    return next((int(step) for step in found if isinstance(step, int) and step >= 0), 0)
