"""What Qdrant's two engines, in this process and in a cluster, have in common: points, filters, the calls of an index."""

import math
import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from .protocol import Where, check_batch, check_ids

VECTOR = "tokens"
"""Name of the multi-vector. A passage without a token that scores has none, and is never found."""
IDS_A_CALL = 4096
NUMBERS_A_CALL = 1_000_000
"""Some 20 MB as JSON: a node of a cluster refuses more than 32 (`max_request_size_mb`). Also what is in memory as objects."""
ID_KEY, PAYLOAD_KEY, TRUTH_KEY = "passage_id", "payload", "truths"
PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")
WHOLE_NUMBERS, EXACT_NUMBERS = 2**63, 2**53
"""Whole numbers below the one are matched; below the other they are the same with a point."""
NAMESPACE = uuid.UUID("6f1cbf7e-2f4a-5d0e-9a53-0c5d3e6a7b11")


def point_id(passage_id: str) -> str:
    """Return the UUID that stands for a passage id: Qdrant takes numbers and UUIDs alone."""
    return str(uuid.uuid5(NAMESPACE, passage_id.encode("utf-8", "surrogatepass").hex()))


def point_payload(passage_id: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a point carries: the passage's own id, its payload, and the truth values of it as texts.

    qdrant-edge-py 0.9.0 takes `MatchValue(True)` for the number 1 and finds nothing; texts are matched everywhere.
    """
    members = {key: value if isinstance(value, list | tuple) else [value] for key, value in payload.items()}
    truths = {key: [str(one) for one in own if isinstance(one, bool)] for key, own in members.items()}
    kept = {key: own for key, own in truths.items() if own}
    return {ID_KEY: passage_id, PAYLOAD_KEY: dict(payload), TRUTH_KEY: kept}


def filter_of(where: Where | None, models: Any) -> Any:
    """Return Qdrant's filter for ours.

    Args:
        where: `{key: value}` or `{key: [values]}`, of texts, numbers and truth values.
        models: `qdrant_edge` or `qdrant_client.models`, which have the same classes.

    Raises:
        ValueError: for a value of another type, or a key with a quote or backslash, which Qdrant does not match.
    """
    if where is None:
        return None
    return models.Filter(must=[_any_of(key, wanted, models) for key, wanted in where.items()])


def _any_of(key: str, wanted: Any, models: Any) -> Any:
    values = list(wanted) if isinstance(wanted, list | tuple | set | frozenset) else [wanted]
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
    place, text = (TRUTH_KEY, str(value)) if isinstance(value, bool) else (PAYLOAD_KEY, value)
    # Unquoted, "a.b" would be the key b of the value of a; plain keys stay as an index of the payload names them.
    path = f"{place}.{key}" if PLAIN_KEY.fullmatch(key) else f'{place}."{key}"'
    found = []
    if not isinstance(text, float):
        found.append(models.FieldCondition(key=path, match=models.MatchValue(value=text)))
    if not isinstance(text, str) and abs(text) <= EXACT_NUMBERS:
        span = getattr(models, "RangeFloat", None) or models.Range  # of `qdrant_edge`, and of `qdrant_client`
        found.append(models.FieldCondition(key=path, range=span(gte=float(text), lte=float(text))))
    return found


def missing_extra(name: str) -> str:
    """Return what is said when a package is not installed."""
    return f"The Qdrant engines need {name}: `pip install drdecr[qdrant]`."


def calls_of(embeddings: Sequence[Tensor], most: int) -> Iterator[slice]:
    """Cut texts into calls of at most so many texts, and of `NUMBERS_A_CALL` numbers; one text at least."""
    start = numbers = 0
    for place, tokens in enumerate(embeddings):
        if place > start and (place - start == most or numbers + tokens.numel() > NUMBERS_A_CALL):
            yield slice(start, place)
            start, numbers = place, 0
        numbers += tokens.numel()
    if start < len(embeddings):
        yield slice(start, len(embeddings))


class PointIndex(ABC):
    """Passages as points of Qdrant; an engine says how points are made, written, deleted and read.

    Args:
        dim: width of the tokens.
        models: `qdrant_edge` or `qdrant_client.models`.
        place: of the passages, for messages.
        points_a_call: written at once, at most.
    """

    def __init__(self, dim: int, models: Any, place: str, points_a_call: int) -> None:
        self.dim, self._models, self._place, self._points_a_call = dim, models, place, points_a_call

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _points(
        self, ids: Sequence[str], embeddings: Sequence[Tensor], payloads: Sequence[dict[str, Any]]
    ) -> list[Any]:
        """Return points; `ids` and `payloads` are Qdrant's."""

    @abstractmethod
    def _upsert(self, points: list[Any]) -> None: ...

    @abstractmethod
    def _has_id(self, ids: list[str]) -> Any:
        """Return the condition that a point is one of these."""

    @abstractmethod
    def _delete(self, wanted: Any) -> None:
        """Delete what passes a filter of Qdrant's."""

    @abstractmethod
    def _records(self, ids: list[str]) -> list[Any]:
        """Return points with their payloads, without vectors, of those that are there."""

    @abstractmethod
    def _some_ids(self, offset: Any) -> tuple[list[Any], Any]:
        """Return points from an offset on with their ids as payload, and the offset behind them; None behind the last."""

    def passage_ids(self) -> list[str]:
        """Return the ids of all passages, in no order that means anything."""
        found: list[str] = []
        offset = None
        while True:
            records, offset = self._some_ids(offset)
            found += [record.payload[ID_KEY] for record in records]
            if offset is None:
                return found

    def add(
        self,
        passage_ids: Sequence[str],
        embeddings: Sequence[Tensor],
        payloads: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Add passages; one whose id is there already takes its place."""
        check_batch(passage_ids, embeddings, payloads, self.dim)
        given = payloads or [{}] * len(passage_ids)
        for call in calls_of(embeddings, self._points_a_call):
            pairs = zip(passage_ids[call], given[call], strict=True)
            kept = [point_payload(name, payload) for name, payload in pairs]
            self._upsert(self._points([point_id(name) for name in passage_ids[call]], embeddings[call], kept))

    def delete(self, passage_ids: Sequence[str] | None = None, where: Where | None = None) -> int:
        """Delete passages by id or by payload (or by both) and return how many."""
        if passage_ids is None and not where:
            raise ValueError(f"delete: expected ids or a filter, got neither. To delete all, remove {self._place}.")
        check_ids(passage_ids)
        before = len(self)
        conditions = [] if where is None else [filter_of(where, self._models)]
        if passage_ids is not None:
            conditions.append(self._has_id([point_id(name) for name in passage_ids]))
        self._delete(self._models.Filter(must=conditions))
        return before - len(self)

    def payloads(self, passage_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return what was added with passages; `ValueError` for one that is not there."""
        records = self._records([point_id(name) for name in passage_ids])
        found = {record.payload[ID_KEY]: record.payload[PAYLOAD_KEY] for record in records}
        unknown = next((name for name in passage_ids if name not in found), None)
        if unknown is not None:
            raise ValueError(f"{unknown!r} is none of the {len(self)} passages of {self._place}. Look at the id.")
        return [found[name] for name in passage_ids]
