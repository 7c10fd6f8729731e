"""Passages as points of Qdrant: ids, payloads, filters, and requests of a size that it takes."""

import math
import re
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from drdecr.retrieval.protocol import Filter, filter_values

NUMBERS_PER_CALL = 1_000_000
"""Some 20 MB as JSON: a node of a cluster refuses more than 32 (`max_request_size_mb`). Also what is in memory as objects."""
ID_KEY, PAYLOAD_KEY = "passage_id", "payload"
PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")
WHOLE_NUMBERS, EXACT_NUMBERS = 2**63, 2**53
"""Whole numbers below the one are matched; below the other they are the same with a point."""
NAMESPACE = uuid.UUID("6f1cbf7e-2f4a-5d0e-9a53-0c5d3e6a7b11")


def point_id(passage_id: str) -> str:
    """Return the UUID that stands for a passage id: Qdrant takes numbers and UUIDs alone."""
    return str(uuid.uuid5(NAMESPACE, passage_id.encode("utf-8", "surrogatepass").hex()))


def filter_of(where: Filter | None, models: Any) -> Any:
    """Return Qdrant's filter for ours.

    Args:
        where: `{key: value}` or `{key: [values]}`, of texts, numbers and truth values.
        models: `qdrant_client.models`, imported where it is needed.

    Raises:
        ValueError: for a value of another type, or a key with a quote or backslash, which Qdrant does not match.
    """
    if where is None:
        return None
    filter_values(where)  # its limits
    return models.Filter(must=[_any_of(key, value, models) for key, value in where.items()])


def _any_of(key: str, value_or_values: Any, models: Any) -> Any:
    is_several = isinstance(value_or_values, list | tuple | set | frozenset)
    values = list(value_or_values) if is_several else [value_or_values]
    odd = [value for value in values if not _is_matched(value)]
    if odd or not values:
        raise ValueError(
            f"filter {key}: Qdrant matches texts, numbers, true and false, got {odd[0] if odd else values!r}. Leave it out, or "
            "search the index that this one was made from."
        )
    if '"' in key or "\\" in key:
        raise ValueError(f"filter {key}: Qdrant finds no key with a quote or a backslash. Rename it, and index again.")
    return models.Filter(should=[condition for value in values for condition in _has(key, value, models)])


def _is_matched(value: Any) -> bool:
    if isinstance(value, int):
        return abs(value) < WHOLE_NUMBERS
    return isinstance(value, str) or (isinstance(value, float) and math.isfinite(value))


def _has(key: str, value: str | float, models: Any) -> list[Any]:
    """Return the conditions of which one holds where a key has a value: 2 and 2.0 are one number, and two for Qdrant."""
    # Unquoted, "a.b" would be the key b of the value of a; plain keys stay as an index of the payload names them.
    path = f"{PAYLOAD_KEY}.{key}" if PLAIN_KEY.fullmatch(key) else f'{PAYLOAD_KEY}."{key}"'
    conditions = []
    if not isinstance(value, float):
        conditions.append(models.FieldCondition(key=path, match=models.MatchValue(value=value)))
    if not isinstance(value, str | bool) and abs(value) <= EXACT_NUMBERS:
        conditions.append(models.FieldCondition(key=path, range=models.Range(gte=float(value), lte=float(value))))
    return conditions


def calls_of(embeddings: Sequence[Tensor], most: int) -> Iterator[slice]:
    """Cut texts into calls of at most so many texts, and of `NUMBERS_PER_CALL` numbers; one text at least."""
    start = numbers = 0
    for place, tokens in enumerate(embeddings):
        if place > start and (place - start == most or numbers + tokens.numel() > NUMBERS_PER_CALL):
            yield slice(start, place)
            start, numbers = place, 0
        numbers += tokens.numel()
    if start < len(embeddings):
        yield slice(start, len(embeddings))
