"""How token embeddings are kept: half precision, 8 bit, or a centroid and 2 or 4 bit for each number of what is left.

A codec is a pure pair of functions between `(tokens, dim)` and arrays of which some have a row a token.

| codec | bytes a token | kept |
| --- | --- | --- |
| float16 | 2 dim | the numbers |
| int8 | dim + 2 | numbers between -127 and 127, and the token's scale |
| residual4, residual2 | dim / 2 + 2, dim / 4 + 2 | nearest centroid, and a bucket a number of the residual, as ColBERTv2 |
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from .kmeans import assign, kmeans

CODECS = ("float16", "int8", "residual4", "residual2")
CENTROIDS_PER_ROOT = 16
"""Centroids for n tokens: 16 sqrt(n), as in ColBERTv2."""
TOKENS_A_CENTROID = 16
"""At least: fewer tokens than this a centroid, and the centroids would weigh more than the codes."""
TRAINING_TOKENS = 32_768
"""Tokens that centroids and buckets are made from."""
BUCKET_NUMBERS, BUCKET_ROUNDS = 500_000, 100
"""Numbers of residuals that the buckets are made from, and Lloyd's rounds over them."""
MAX_CENTROIDS = 2048
"""More would make an index slow to write: every token is compared with each."""

Arrays = Mapping[str, np.ndarray]


def check_codec(codec: str, dim: int) -> None:
    """Raise `ValueError` for an unknown codec, or a width that its bits do not fill bytes with."""
    if codec not in CODECS:
        raise ValueError(f"codec: expected one of {', '.join(CODECS)}, got {codec!r}.")
    if dim < 1 or (codec.startswith("residual") and dim * bits_of(codec) % 8):
        raise ValueError(
            f"codec {codec}: expected embeddings of whole bytes, got {dim} dimensions. Take int8 or float16."
        )


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
    if codec == "float16":
        return {"vectors": tokens.half().numpy()}
    if codec == "int8":
        values = tokens.float()
        scales = (values.abs().amax(dim=-1) / 127).clamp(min=1e-5).half() if len(values) else values.new_zeros(0).half()
        vectors = (values / scales.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
        return {"vectors": vectors.numpy(), "scales": scales.numpy()}
    return _encode_residual(tokens, bits_of(codec), seed)


def decode_tokens(arrays: Arrays, codec: str, rows: Tensor) -> Tensor:
    """Decode the tokens in `rows` (int64, any shape) into float32 `(*rows.shape, dim)`."""
    flat = rows.flatten()
    if codec == "float16":
        tokens = _rows(arrays["vectors"], flat).float()
    elif codec == "int8":
        tokens = _rows(arrays["vectors"], flat).float() * _rows(arrays["scales"], flat).float()[:, None]
    else:
        tokens = _decode_residual(arrays, bits_of(codec), flat)
    return tokens.view(*rows.shape, -1) if rows.numel() else tokens.new_zeros(*rows.shape, tokens.shape[-1])


def _rows(array: np.ndarray, rows: Tensor) -> Tensor:
    return torch.from_numpy(array).index_select(0, rows)


def _encode_residual(tokens: Tensor, bits: int, seed: int) -> dict[str, np.ndarray]:
    tokens = tokens.float()
    drawn = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))[:TRAINING_TOKENS]
    wanted = min(int(CENTROIDS_PER_ROOT * len(tokens) ** 0.5), len(tokens) // TOKENS_A_CENTROID, MAX_CENTROIDS)
    if len(tokens):
        centroids = kmeans(tokens[drawn], max(1, wanted), seed=seed).half().float()
    else:
        centroids = tokens.new_zeros(1, tokens.shape[1])
    ids = assign(tokens, centroids)
    residuals = tokens[drawn] - centroids[ids[drawn]]
    cutoffs, buckets = _buckets(residuals.flatten(), 2**bits)
    codes = [
        _packed(torch.bucketize(part - centroids[nearest], cutoffs), bits)
        for part, nearest in zip(tokens.split(65_536), ids.split(65_536), strict=True)
    ]
    return {
        "codes": torch.cat(codes).numpy(),
        "centroid_ids": ids.numpy().astype(np.uint16),
        "centroids": centroids.half().numpy(),
        "buckets": buckets.numpy(),
    }


def _buckets(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return `count - 1` cut-offs and `count` values that stand for what lies between them, with the least squared error.

    Lloyd's rounds from the equally filled buckets of ColBERTv2: a cut-off lies half way between two values, a value is the
    mean of its bucket.
    """
    if not len(values):
        return torch.zeros(count - 1), torch.zeros(count)
    ordered = values[:BUCKET_NUMBERS].double().sort().values
    sums = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])  # a bucket is a stretch of them, its sum a difference
    middles = ((torch.arange(count) + 0.5) / count * len(ordered)).long()
    buckets = ordered[middles]
    for _ in range(BUCKET_ROUNDS):
        ends = torch.searchsorted(ordered, (buckets[1:] + buckets[:-1]) / 2)
        ends = torch.cat([ends.new_zeros(1), ends, ends.new_full((1,), len(ordered))])
        sizes = ends.diff()
        buckets = torch.where(sizes > 0, sums[ends].diff() / sizes.clamp(min=1), buckets)
    buckets = buckets.float()
    return (buckets[1:] + buckets[:-1]) / 2, buckets


def _packed(codes: Tensor, bits: int) -> Tensor:
    """Pack codes `(tokens, dim)` of `bits` each into bytes, the first code in the highest bits."""
    grouped = codes.unflatten(-1, (codes.shape[-1] * bits // 8, 8 // bits))
    shifts = torch.arange(8 - bits, -1, -bits)
    return (grouped << shifts).sum(dim=-1).to(torch.uint8)


def _decode_residual(arrays: Arrays, bits: int, rows: Tensor) -> Tensor:
    every_byte = torch.arange(256)[:, None] >> torch.arange(8 - bits, -1, -bits)
    table = torch.from_numpy(arrays["buckets"])[every_byte & (2**bits - 1)]  # (256, codes a byte)
    codes = _rows(arrays["codes"], rows)
    centroids = torch.from_numpy(arrays["centroids"]).float()
    nearest = torch.from_numpy(arrays["centroid_ids"][rows.numpy()].astype(np.int64))
    residuals = table.index_select(0, codes.flatten().int()).view(len(rows), centroids.shape[1])
    return torch.nn.functional.normalize(residuals + centroids[nearest], dim=-1)
