"""A model that does not fit one device: FSDP2, where each rank keeps 1 / size of the denoiser's weights, gradients, moments and averages.

    forward     a block's weights are gathered, used, and dropped        backward    gathered again, and the gradients summed and scattered

Every block of the denoiser is a unit, what is left of the denoiser (token table, heads, conditioning) another. Length head, linear reading,
posterior and prior are small, are asked in other ways than `forward`, and stay whole on every rank (`lgdlm.training.gradients`).

Gradients are summed and not averaged: every loss is already divided by the totals of the global batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lgdlm.config import Config
from lgdlm.errors import InputError
from lgdlm.models.block_causal import BlockMemory
from lgdlm.models.denoiser import NoisyPair, Prediction
from lgdlm.models.joint import TextLatentDiffusion
from lgdlm.models.rwkv7 import LayerState, RWKVState
from lgdlm.training.distributed import World

PASSED = (NoisyPair, Prediction, LayerState, RWKVState, BlockMemory)  # between units: FSDP looks for tensors in them
BLOCKS = "blocks"


def is_sharded(tensor: Tensor) -> bool:
    """Whether a rank holds only a part of a tensor."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this rank holds, sharing its memory; a whole tensor is itself."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[operator,attr-defined,no-any-return]


def refuse_sharding(config: Config) -> None:
    """Raise InputError where `config` asks for what sharded weights cannot do."""
    from importlib.util import find_spec

    if config.optimizer.name == "muon":
        raise _refusal("optimizer.name", "muon needs whole matrices, and a rank has parts: use adamw, or training.shard=false")
    if config.training.compile_model:
        raise _refusal("training.compile_model", "a compiled denoiser cannot be taken apart: use one of the two")
    if config.model.text_process == "embedding":
        raise _refusal("model.text_process", "embedding reads the token table between the denoiser's calls, when a rank has a part of it")
    if find_spec("torch.distributed.checkpoint.hf_storage") is None:
        raise _refusal("training.shard", f"comes with torch 2.9 and later, this is {torch.__version__}")


def _refusal(key: str, message: str) -> InputError:
    return InputError("CONFIG", "config", key, message)


def shard(model: TextLatentDiffusion, world: World) -> None:
    """Leave this rank its part of the denoiser's parameters, in place; all ranks have the same weights before.

    To be done before anything remembers the parameters, which are others afterwards.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.utils import _pytree

    for kind in PASSED:
        if kind not in _pytree.SUPPORTED_NODES:
            _pytree.register_dataclass(kind)
    mesh = init_device_mesh(model.device.type, (world.size,))
    stacks = [module for name, module in model.denoiser.named_modules() if name.rpartition(".")[2] == BLOCKS]
    units: list[nn.Module] = [*(block for stack in stacks for block in stack.children()), model.denoiser]
    for unit in units:
        held = fully_shard(unit, mesh=mesh, reshard_after_forward=True)
        held.set_gradient_divide_factor(1.0)
        held.set_force_sum_reduction_for_comms(True)  # gloo has no other
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")  # nobody writes into an answer


def parts_like(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors, each cut as the one of the same name in `like` is: this rank keeps its part, on that one's device."""
    return {name: part_like(tensor, like[name]) if name in like else tensor for name, tensor in tensors.items()}


def part_like(tensor: Tensor, like: Tensor) -> Tensor:
    """This rank's part of one whole tensor; FSDP cuts along the first axis, into chunks of equal size but for the last ones."""
    if not is_sharded(like) or is_sharded(tensor) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import DTensor

    assert isinstance(like, DTensor)
    assert like.placements[0].is_shard(0)
    chunk = -(-like.shape[0] // like.device_mesh.size())
    first = min(chunk * like.device_mesh.get_local_rank(), like.shape[0])
    part = tensor[first : first + like.to_local().shape[0]].to(like.device)
    return DTensor.from_local(part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride())
