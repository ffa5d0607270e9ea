"""Loading an embedding model from a local folder: safetensors only, no remote code, and no weight left at random.

A checkpoint that lacks a weight would be filled with random numbers by the library; here that is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lgdlm.data.encoder_family import Recipe
from lgdlm.data.sentence_layout import read_json_object
from lgdlm.errors import InputError

ENCODER_HALVES = {  # encoder-decoders, of which only the encoder is loaded: (class, attribute that holds it)
    "t5": ("T5EncoderModel", None),
    "mt5": ("MT5EncoderModel", None),
    "umt5": ("UMT5EncoderModel", None),
    "m2m_100": ("M2M100Model", "encoder"),
}
ACTIVATIONS = {"Identity": nn.Identity, "Tanh": nn.Tanh, "ReLU": nn.ReLU, "GELU": nn.GELU, "Sigmoid": nn.Sigmoid}


@dataclass(frozen=True)
class EncoderWeights:
    """What a forward pass needs: `model(input_ids, attention_mask)` gives last_hidden_state; `dense` follows the pooling."""

    tokenizer: Any
    model: nn.Module
    dense: nn.Sequential
    dim: int
    max_length: int | None


def load_encoder_weights(recipe: Recipe, dtype: torch.dtype, device: str, language: str | None) -> EncoderWeights:
    """Load in evaluation mode. Raises InputError: MISSING_PACKAGE, BAD_ENCODER, MISSING_WEIGHT, UNKNOWN_VALUE (language)."""
    folder = recipe.layout.model_folder
    config = read_json_object(folder / "config.json")
    tokenizer = _tokenizer(folder, language)
    model = _model(folder, str(config.get("model_type")), config).to(device=device, dtype=dtype).eval()
    dense = nn.Sequential(*(_dense(part) for part in recipe.layout.dense)).to(device).eval()
    width = int(config.get("hidden_size") or config.get("d_model") or 0)
    dim = [layer.out_features for layer in dense.modules() if isinstance(layer, nn.Linear)] or [width * len(recipe.pooling)]
    return EncoderWeights(tokenizer, model, dense, dim[-1], _max_length(recipe, tokenizer, config))


def weight_files(recipe: Recipe) -> list[Path]:
    """The files whose content is the model: the transformer's weights, then those of the dense layers.

    Raises InputError (BAD_ENCODER) where there are no safetensors.
    """
    files = sorted(recipe.layout.model_folder.glob("*.safetensors"))
    if not files:
        message = "holds no .safetensors weights; convert them (other formats can run code and are not read)"
        raise InputError("BAD_ENCODER", recipe.layout.model_folder, "weights", message)
    return files + [part / "model.safetensors" for part in recipe.layout.dense]


def _model(folder: Path, kind: str, config: dict[str, Any]) -> nn.Module:
    name, half = ENCODER_HALVES.get(kind, ("AutoModel", None))
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
    if name == "AutoModel":  # a named class has no remote code to trust
        options["trust_remote_code"] = False
    architecture: Any = getattr(_transformers(), name)
    if config.get("architectures") == ["M2M100Encoder"]:  # the ports of SONAR hold the encoder alone
        architecture, half = _m2m100_encoder(), None
    try:
        model, found = architecture.from_pretrained(str(folder), **options)
    except Exception as error:  # the library raises whatever its parsers raise
        raise InputError("BAD_ENCODER", folder, "model", f"cannot be loaded: {str(error).splitlines()[0]:.160}") from None
    missing = [key for key in found["missing_keys"] if not key.startswith(("pooler.", "decoder."))]
    missing += [str(key) for key in found.get("mismatched_keys", ())]
    if missing:
        message = f"{len(missing)} weights are absent or of another shape; save the model again"
        raise InputError("MISSING_WEIGHT", folder, sorted(missing)[0], message)
    return getattr(model, half) if half else model


def _tokenizer(folder: Path, language: str | None) -> Any:
    try:
        tokenizer = _transformers().AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises whatever its parsers raise
        raise InputError("BAD_ENCODER", folder, "tokenizer", f"cannot be loaded: {str(error).splitlines()[0]:.160}") from None
    if hasattr(tokenizer, "src_lang"):
        language, key = language or "eng_Latn", "prepare.encoder_language"
        if tokenizer.convert_tokens_to_ids(language) in (None, tokenizer.unk_token_id):
            raise InputError("UNKNOWN_VALUE", folder, key, f"the tokenizer does not know '{language}', such as eng_Latn")
        tokenizer.src_lang = language
    elif language is not None:
        raise InputError("UNKNOWN_VALUE", folder, "prepare.encoder_language", "this model has no language to choose; leave it out")
    return tokenizer


def _dense(part: Path) -> nn.Module:
    from safetensors.torch import load_file

    config = read_json_object(part / "config.json")
    if config.get("use_residual") or config.get("module_input_name", "sentence_embedding") != "sentence_embedding":
        raise InputError("BAD_ENCODER", part / "config.json", "dense", "residual layers and layers before the pooling are not offered")
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).split(".")[-1]
    try:
        linear = nn.Linear(int(config["in_features"]), int(config["out_features"]), bias=bool(config.get("bias", True)))
        linear.load_state_dict({key.removeprefix("linear."): value.float() for key, value in load_file(part / "model.safetensors").items()})
        return nn.Sequential(linear, ACTIVATIONS[activation]())
    except Exception as error:  # a missing file, key or shape: all are damage of this folder
        raise InputError("BAD_ENCODER", part, "dense", f"cannot be loaded: {str(error).splitlines()[0]:.160}") from None


def _max_length(recipe: Recipe, tokenizer: Any, config: dict[str, Any]) -> int | None:
    """The least of what the layout, the tokenizer and the position table allow, in tokens; None: no limit is known."""
    limits = [recipe.layout.max_length]
    if tokenizer.model_max_length < 1 << 30:  # the library's way to say "unknown" is 1e30
        limits.append(tokenizer.model_max_length)
    if positions := config.get("max_position_embeddings"):
        roberta = config.get("model_type") in ("xlm-roberta", "roberta", "camembert", "mpnet")  # positions start behind the padding's
        limits.append(positions - (config.get("pad_token_id") or 0) - 1 if roberta else positions)
    return min((int(limit) for limit in limits if limit), default=None)


def _m2m100_encoder() -> Any:
    from transformers.models.m2m_100.modeling_m2m_100 import M2M100Encoder

    return M2M100Encoder


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise InputError("MISSING_PACKAGE", "transformers", "package", "encoders need it; run: pip install transformers") from None
    transformers.utils.logging.disable_progress_bar()  # of loading weights; ours counts texts
    transformers.utils.logging.set_verbosity_error()  # what its reports warn of is an error here
    return transformers


def normalised(vectors: Tensor) -> Tensor:
    """Rows of unit Euclidean length."""
    return vectors / vectors.norm(dim=-1, keepdim=True)
