"""How token embeddings are kept: half precision, 8 bit, or a centroid and 2 to 4 bit for each number of what is left.

A codec is a pure pair of functions between `(tokens, dim)` and arrays of which some have a row a token.

| codec | bytes a token | kept |
| --- | --- | --- |
| float16 | 2 dim | the numbers |
| int8 | dim + 2 | numbers between -127 and 127, and the token's scale |
| residual4, 3, 2 | dim (4, 3, 2) / 8 + 2 | nearest centroid, and a bucket a number of the residual, as ColBERTv2 |
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from .kmeans import assign, kmeans

CODECS = ("float16", "int8", "residual4", "residual3", "residual2")
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

CODES_A_GROUP = {4: 2, 3: 8, 2: 4}
"""Codes, by their bits, that fill whole bytes together."""
BITS_A_WORD = {4: 8, 3: 12, 2: 8}
"""Bits that are looked up at once when codes are decoded: whole codes, in a table that stays in a cache."""

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


def decode_tokens(arrays: Arrays, codec: str, rows: Tensor | slice) -> Tensor:
    """Decode the tokens in `rows` (int64 of any shape, or a slice) into float32 `(*rows.shape, dim)`."""
    numbers, scales = _numbers(arrays, codec, rows if isinstance(rows, slice) else rows.flatten())
    tokens = numbers if scales is None else numbers.mul_(scales[:, None])
    return tokens if isinstance(rows, slice) else tokens.view(*rows.shape, tokens.shape[-1])


def similarities(queries: Tensor, arrays: Arrays, codec: str, rows: Tensor | slice) -> Tensor:
    """Return the products of query tokens with kept tokens.

    The same as with `decode_tokens`, but scales meet the products, which are fewer than the numbers.

    Args:
        queries: `(query_tokens, dim)` float32.
        arrays: of `encode_tokens`.
        codec: that they were made with.
        rows: of tokens: int64 `(tokens,)`, or a slice, which reads faster.

    Returns:
        float32 `(query_tokens, tokens)`.
    """
    numbers, scales = _numbers(arrays, codec, rows)
    products = queries @ numbers.T  # in this order twice as fast as the transposed one
    return products if scales is None else products.mul_(scales)


def _numbers(arrays: Arrays, codec: str, rows: Tensor | slice) -> tuple[Tensor, Tensor | None]:
    """Return float32 `(tokens, dim)`, and a scale of each token that is still to be applied; None: none is."""
    if codec == "float16":
        return _rows(arrays["vectors"], rows).float(), None
    if codec == "int8":
        return _rows(arrays["vectors"], rows).float(), _rows(arrays["scales"], rows).float()
    numbers = _residuals(arrays, bits_of(codec), rows)
    numbers += torch.from_numpy(arrays["centroids"]).float()[_rows(arrays["centroid_ids"].view(np.int16), rows).long()]
    return numbers, torch.linalg.vector_norm(numbers, dim=-1).clamp_(min=1e-12).reciprocal_()


def _rows(array: np.ndarray, rows: Tensor | slice) -> Tensor:
    return torch.from_numpy(array[rows]) if isinstance(rows, slice) else torch.from_numpy(array).index_select(0, rows)


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
    """Pack codes `(tokens, dim)` of `bits` each into bytes `(tokens, dim * bits / 8)`, the first code in the highest bits."""
    group = CODES_A_GROUP[bits]
    grouped = codes.unflatten(-1, (codes.shape[-1] // group, group))
    words = (grouped << torch.arange(group * bits - bits, -1, -bits)).sum(dim=-1)
    return (words[..., None] >> torch.arange(group * bits - 8, -1, -8) & 255).flatten(1).to(torch.uint8)


def _residuals(arrays: Arrays, bits: int, rows: Tensor | slice) -> Tensor:
    """Look up what codes stand for, some at once: float32 `(tokens, dim)`."""
    width = BITS_A_WORD[bits]
    every_word = np.arange(2**width)[:, None] >> np.arange(width - bits, -1, -bits) & (2**bits - 1)
    table = arrays["buckets"][every_word]  # (words, codes a word)
    # numpy's take: three times as fast as torch's index_select for rows of a few bytes.
    codes = _rows(arrays["codes"], rows).numpy()
    words = codes if width == 8 else _words_of_12_bits(codes)
    found = np.take(table, words.astype(np.intp).ravel(), axis=0, mode="clip")
    return torch.from_numpy(found).view(len(codes), arrays["centroids"].shape[1])


def _words_of_12_bits(codes: np.ndarray) -> np.ndarray:
    """Return the two words of each three bytes: `(tokens, bytes)` uint8 to `(tokens, bytes / 3, 2)` uint16."""
    first, second, third = (codes[:, place::3].astype(np.uint16) for place in range(3))
    return np.stack([first << 4 | second >> 4, (second & 15) << 8 | third], axis=-1)
