"""What tells texts, settings and models apart by content: the keys of everything that is kept on disk."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

KEY_BYTES = 16

NOT_IN_NUMBERS = ("_name_or_path", "transformers_version", "dtype", "architectures", "auto_map")
"""Settings of a model's configuration on which no number depends."""


def text_key(text: str) -> bytes:
    """Return what stands for a text in a shard: the first 16 bytes of its SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:KEY_BYTES]


class TextKeys(Sequence[bytes]):
    """Keys of many texts in `KEY_BYTES` each.

    Args:
        content: of all keys, one behind the other.
    """

    def __init__(self, content: bytes | bytearray) -> None:
        self.content = content

    @classmethod
    def of(cls, texts: Iterable[str]) -> "TextKeys":
        """Make the keys of texts, which are read once."""
        content = bytearray()
        for text in texts:
            content += text_key(text)
        return cls(content)

    def __len__(self) -> int:
        return len(self.content) // KEY_BYTES

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[number] for number in range(len(self))[place]]
        return bytes(self.content[place * KEY_BYTES : (place + 1) * KEY_BYTES])

    def __iter__(self) -> Iterator[bytes]:
        return (bytes(self.content[at : at + KEY_BYTES]) for at in range(0, len(self.content), KEY_BYTES))

    def different(self) -> list[int]:
        """Return where each different key stands first, ascending."""
        halves = np.frombuffer(self.content, dtype="<u8").reshape(-1, 2)
        order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: of equal keys the first one comes first
        in_order = halves[order]
        is_new = np.ones(len(order), dtype=np.bool_)
        is_new[1:] = (in_order[1:] != in_order[:-1]).any(axis=1)
        return np.sort(order[is_new]).tolist()


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
