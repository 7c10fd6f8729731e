"""How token embeddings are kept: half precision, 8 bit, or a centroid and 2 to 4 bit for each number of what is left.

A codec is a pure pair of functions between `(tokens, dim)` and arrays of which some have a row a token.

| codec | bytes a token | kept |
| --- | --- | --- |
| float16 | 2 dim | the numbers |
| int8 | dim + 2 | numbers between -127 and 127, and the token's scale |
| residual4, 3, 2 | dim (4, 3, 2) / 8 + 2 | nearest centroid, and a bucket a number of the residual, as ColBERTv2 |
"""

import threading
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from .residual import encode_residuals, learn_codes, look_up

CODECS = ("float16", "int8", "residual4", "residual3", "residual2")
TRAINING_TOKENS = 32_768
"""Tokens that centroids and buckets are made from."""

MOST_SCRATCH = 16 << 20
"""Bytes of a scratch buffer that are kept for the next block."""

Arrays = Mapping[str, np.ndarray]


class _Scratch(threading.local):
    """Memory of a thread that block after block is decoded into: fresh memory costs more than what is done with it."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, rows: int, dim: int) -> Tensor:
        """Return float32 `(rows, dim)` of any content, which lasts until `name` is taken again."""
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < rows * dim:
            buffer = torch.empty(rows * dim)
            if 4 * len(buffer) <= MOST_SCRATCH:
                self._buffers[name] = buffer
        return buffer[: rows * dim].view(rows, dim)


_scratch = _Scratch()


def check_codec(codec: str, dim: int) -> None:
    """Raise `ValueError` for an unknown codec, or a width that its bits do not fill bytes with."""
    if codec not in CODECS:
        raise ValueError(f"codec: expected one of {', '.join(CODECS)}, got {codec!r}.")
    if dim < 1 or (codec.startswith("residual") and dim * bits_of(codec) % 8):
        raise ValueError(
            f"codec {codec}: expected embeddings of whole bytes, got {dim} dimensions. Take int8 or float16."
        )


def check_arrays(arrays: Arrays, num_tokens: int, dim: int, codec: str, contents: bool) -> None:
    """Raise `ValueError` for arrays that are not those of so many tokens.

    Args:
        arrays: of a segment.
        num_tokens: that they must hold.
        dim: width of the tokens.
        codec: that the manifest names.
        contents: look at every centroid's number, too.
    """
    check_codec(codec, dim)
    if codec in ("float16", "int8"):
        expected = {"vectors": (codec, (num_tokens, dim)), "scales": ("float16", (num_tokens,))}
        if codec == "float16":
            del expected["scales"]
    else:
        bits, centroids = bits_of(codec), len(arrays["centroids"])
        expected = {
            "codes": ("uint8", (num_tokens, dim * bits // 8)),
            "centroid_ids": ("uint16", (num_tokens,)),
            "centroids": ("float16", (centroids, dim)),
            "buckets": ("float32", (2**bits,)),
        }
        if contents and num_tokens and arrays["centroid_ids"].max() >= centroids:
            raise ValueError(f"centroid_ids: more than the {centroids} centroids")
    actual = {name: (str(array.dtype), array.shape) for name, array in arrays.items()}
    if actual != expected:
        raise ValueError(f"expected arrays {expected}, got {actual}")


def bits_of(codec: str) -> int:
    """Return the bits a number of a residual codec."""
    return int(codec.removeprefix("residual"))


def encode_tokens(tokens: Tensor, codec: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Encode tokens.

    Args:
        tokens: `(tokens, dim)`, L2-normalised, of any float type.
        codec: one of `CODECS`.
        seed: of the tokens that centroids start from.

    Returns:
        Arrays by name: `vectors` `(tokens, dim)` float16 or int8, `scales` `(tokens,)`; or `codes`
        `(tokens, dim * bits / 8)` uint8, `centroid_ids` `(tokens,)` uint16, `centroids` and `buckets`.
    """
    learned = learn(tokens[training_rows(len(tokens), seed)], len(tokens), codec, seed)
    return {**encode_block(tokens, codec, learned), **learned}


def training_rows(num_tokens: int, seed: int) -> Tensor:
    """Return which tokens a codec learns from: int64, at most `TRAINING_TOKENS`."""
    return torch.randperm(num_tokens, generator=torch.Generator().manual_seed(seed))[:TRAINING_TOKENS]


def learn(sample: Tensor, num_tokens: int, codec: str, seed: int) -> dict[str, np.ndarray]:
    """Return the arrays that all tokens share, made from those in `training_rows`; none for float16 and int8."""
    if not codec.startswith("residual"):
        return {}
    centroids, buckets = learn_codes(sample.float(), num_tokens, bits_of(codec), seed)
    return {"centroids": centroids.half().numpy(), "buckets": buckets.numpy()}


def encode_block(tokens: Tensor, codec: str, learned: Arrays) -> dict[str, np.ndarray]:
    """Return the arrays with a row a token, of some of the tokens; what is `learned` comes from `learn`."""
    if codec == "float16":
        return {"vectors": tokens.half().numpy()}
    values = tokens.float()
    if codec == "int8":
        scales = (values.abs().amax(dim=-1) / 127).clamp(min=1e-5).half() if len(values) else values.new_zeros(0).half()
        vectors = (values / scales.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
        return {"vectors": vectors.numpy(), "scales": scales.numpy()}
    centroids, buckets = torch.from_numpy(learned["centroids"]).float(), torch.from_numpy(learned["buckets"])
    codes, ids = encode_residuals(values, centroids, buckets, bits_of(codec))
    return {"codes": codes.numpy(), "centroid_ids": ids.numpy().astype(np.uint16)}


def decode_tokens(arrays: Arrays, codec: str, rows: Tensor | slice) -> Tensor:
    """Decode the tokens in `rows` (int64 of any shape, or a slice) into float32 `(*rows.shape, dim)`."""
    numbers, scales = _numbers(arrays, codec, rows if isinstance(rows, slice) else rows.flatten(), _Scratch())
    tokens = numbers if scales is None else numbers.mul_(scales[:, None])
    return tokens if isinstance(rows, slice) else tokens.view(*rows.shape, tokens.shape[-1])


def similarities(queries: Tensor, arrays: Arrays, codec: str, rows: Tensor | slice) -> Tensor:
    """Return the products of query tokens with kept tokens.

    The same as with `decode_tokens`, but scales meet the products, which are fewer than the numbers.

    Args:
        queries: `(query_tokens, dim)` float32.
        arrays: of `encode_tokens`.
        codec: that they were made with.
        rows: of tokens: int64 `(tokens,)`, or a slice, which is read faster.

    Returns:
        float32 `(query_tokens, tokens)`.
    """
    numbers, scales = _numbers(arrays, codec, rows, _scratch)
    products = queries @ numbers.T  # in this order twice as fast as the transposed one
    return products if scales is None else products.mul_(scales)


def _numbers(arrays: Arrays, codec: str, rows: Tensor | slice, scratch: _Scratch) -> tuple[Tensor, Tensor | None]:
    """Return float32 `(tokens, dim)` in scratch memory, and a scale of each token that is still to be applied; None: none is."""
    if codec in ("float16", "int8"):
        vectors = _rows(arrays["vectors"], rows)
        numbers = scratch.take("numbers", *vectors.shape).copy_(vectors)
        return numbers, _rows(arrays["scales"], rows).float() if codec == "int8" else None
    centroids = torch.from_numpy(arrays["centroids"]).float()
    codes = _rows(arrays["codes"], rows).numpy()
    numbers = scratch.take("numbers", len(codes), centroids.shape[1])
    look_up(codes, arrays["buckets"], bits_of(codec), numbers.numpy())
    nearest = _rows(arrays["centroid_ids"].view(np.int16), rows)  # torch picks no rows of uint16
    numbers += torch.index_select(centroids, 0, nearest.int(), out=scratch.take("centroids", *numbers.shape))
    return numbers, torch.linalg.vector_norm(numbers, dim=-1).clamp_(min=1e-12).reciprocal_()


def _rows(array: np.ndarray, rows: Tensor | slice) -> Tensor:
    return torch.from_numpy(array[rows]) if isinstance(rows, slice) else torch.from_numpy(array).index_select(0, rows)
