"""What tells texts, settings and models apart by content: the keys of everything that is kept on disk."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

KEY_BYTES = 16

NOT_IN_NUMBERS = ("_name_or_path", "transformers_version", "dtype", "architectures", "auto_map")
"""Settings of a model's configuration on which no number depends."""


def text_key(text: str) -> bytes:
    """Return what stands for a text in a shard: the first 16 bytes of its SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:KEY_BYTES]


def value_digest(value: Any) -> str:
    """Return a digest of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def model_digest(model: Any) -> str:
    """Return a digest of all that a model's tokens depend on: weights, configuration, processor and tokenizer.

    Two copies of one checkpoint have the same, wherever they lie; a pass over the weights is a second a GB.
    """
    tokenizer = tokenizer_digest(model.processor.tokenizer)
    return value_digest([weights_digest(model), model.processor.to_dict(), tokenizer])


def weights_digest(model: Any) -> str:
    """Return a digest of a model's configuration and weights."""
    digest = hashlib.sha256()
    settings = {key: value for key, value in model.config.to_dict().items() if key not in NOT_IN_NUMBERS}
    digest.update(value_digest(settings).encode())
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
    return value_digest({name: part for name, part in words.items() if name not in ("truncation", "padding")})
