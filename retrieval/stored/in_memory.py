"""A segment's tokens copied to memory, laid out for the products of one question: less time, for more memory.

A question has some 15 tokens. A usual matrix product with so few runs at half of its rate, the other half goes into bringing
the many tokens into the order that it multiplies in. FBGEMM, which torch brings on x86, takes tokens that were brought into
that order once, in half precision, and multiplies in float32.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .codecs import Arrays
from .ragged import cut_into_blocks

PACKED_CODECS = ("float16", "int8")
"""Those whose numbers half precision holds as they are, so that scores stay the same."""
TOKENS_PER_BLOCK = 8192
"""Tokens multiplied at once: enough to be worth the call, few enough for their products to stay in a cache."""
NUMBERS_PER_TOKEN = 512
"""FBGEMM's rows are so long, or a multiple of it, however few numbers are in them."""


def check_packable(codec: str) -> None:
    """Raise `ValueError` for a codec whose numbers half precision would round."""
    if codec not in PACKED_CODECS:
        raise ValueError(
            f"in memory: expected codec {' or '.join(PACKED_CODECS)}, got {codec}, which is there to take less of it. Search its "
            "files, or index again with another codec."
        )


def can_pack() -> bool:
    """Tell whether torch has FBGEMM's products on this machine; without them an index is searched from its files."""
    named = hasattr(torch.ops.quantized, "linear_prepack_fp16")
    return named and torch.backends.quantized.engine in ("fbgemm", "x86")


def packed_bytes(num_tokens: int, dim: int) -> int:
    """Return the bytes that tokens take in memory."""
    return num_tokens * 2 * NUMBERS_PER_TOKEN * -(-dim // NUMBERS_PER_TOKEN)


@dataclass(frozen=True)
class PackedBlock:
    """Some rows of a segment.

    Args:
        start: the first row.
        stop: the row behind the last.
        tokens: theirs, as FBGEMM keeps them; None if there are none.
        scales: float32 `(tokens,)` that the products are to be multiplied with; None: with nothing.
    """

    start: int
    stop: int
    tokens: Any
    scales: Tensor | None

    def similarities(self, queries: Tensor) -> Tensor:
        """Return the products of query tokens, float32 `(query_tokens, dim)`, with these: float32 `(query_tokens, tokens)`."""
        if self.tokens is None or not len(queries):
            return queries.new_zeros(len(queries), 0)
        products = torch.ops.quantized.linear_dynamic_fp16(queries, self.tokens)
        return products if self.scales is None else products.mul_(self.scales)


def pack_tokens(arrays: Arrays, codec: str, lengths: np.ndarray) -> list[PackedBlock]:
    """Copy a segment's tokens into memory.

    Args:
        arrays: as `codecs.encode_tokens` makes them.
        codec: one of `PACKED_CODECS`.
        lengths: int64 `(passages,)`: tokens of each row, one behind the other.

    Returns:
        Blocks of whole passages, in order.
    """
    check_packable(codec)
    ends = lengths.cumsum()
    blocks = []
    for start, stop in cut_into_blocks(lengths, TOKENS_PER_BLOCK):
        tokens = slice(int(ends[start] - lengths[start]), int(ends[stop - 1]))
        numbers = torch.from_numpy(arrays["vectors"][tokens]).float()
        packed = torch.ops.quantized.linear_prepack_fp16(numbers, None) if len(numbers) else None
        scales = torch.from_numpy(arrays["scales"][tokens]).float() if codec == "int8" else None
        blocks.append(PackedBlock(start, stop, packed, scales))
    return blocks
