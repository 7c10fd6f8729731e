"""What every engine of this package offers, so that one can take the place of another."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

Filter: TypeAlias = Mapping[str, Any]
"""A filter on payloads, `{key: value}` or `{key: [values]}`: every key must have the value, or one of the values. A key
that holds a list has each of its members."""


@dataclass
class Hits:
    """Ranked passages of some queries.

    Args:
        document_ids: for each query, the ids of its best passages, best first.
        scores: for each query, their scores in the same order.
    """

    document_ids: list[list[str]]
    scores: list[list[float]]

    def as_run(self, query_ids: list[str]) -> dict[str, dict[str, float]]:
        """Return `{query_id: {document_id: score}}`, the form that metrics take."""
        rows = zip(query_ids, self.document_ids, self.scores, strict=True)
        return {query: dict(zip(ids, scores, strict=True)) for query, ids, scores in rows}


@runtime_checkable
class PassageIndex(Protocol):
    """Passages with token embeddings that are added, deleted and searched by MaxSim.

    Nothing that `add` or `delete` did is searched, or outlives the process, before `commit`. A class that keeps files has
    `create(folder, ...)` and `open(folder)` beside these.
    """

    def __len__(self) -> int:
        """Return how many passages a search looks at."""
        ...

    def add(
        self,
        passage_ids: Sequence[str],
        embeddings: Sequence[Tensor],
        payloads: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Add passages; one whose id is there already takes its place."""
        ...

    def delete(self, passage_ids: Sequence[str] | None = None, where: Filter | None = None) -> int:
        """Delete passages by id or by payload and return how many."""
        ...

    def commit(self) -> None:
        """Make what was added and deleted lasting and searchable, all of it or nothing."""
        ...

    def search(self, query_embeddings: list[Tensor], top_k: int = 10, where: Filter | None = None) -> Hits:
        """Find the passages with the highest MaxSim, best first."""
        ...

    def passage_ids(self) -> list[str]:
        """Return the ids of all passages."""
        ...

    def payloads(self, passage_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return what was added with passages."""
        ...


def check_batch(
    passage_ids: Sequence[str],
    embeddings: Sequence[Tensor],
    payloads: Sequence[Mapping[str, Any]] | None,
    dim: int | None,
) -> None:
    """Check passages that are to be added.

    Args:
        passage_ids: their ids.
        embeddings: one `(tokens, dim)` tensor each.
        payloads: one mapping each, or None.
        dim: width that they must have; None for any.

    Raises:
        ValueError: for other numbers of one than of the other, ids that are empty, no text or repeated, another shape,
            numbers that are not finite, or a payload that is no mapping of what JSON can hold.
    """
    check_ids(passage_ids)
    counts = [len(passage_ids), len(embeddings), len(passage_ids) if payloads is None else len(payloads)]
    if len(set(counts)) > 1:
        raise ValueError(
            f"add: expected as many embeddings and payloads as ids, got {counts[0]} ids, {counts[1]} embeddings and "
            f"{counts[2]} payloads. Pass them in one order."
        )
    odd = next((name for name in passage_ids if not isinstance(name, str) or not name), None)
    if odd is not None:
        raise ValueError(f"Passage ids must be texts that are not empty, got {odd!r}. Write str(id).")
    if len(set(passage_ids)) < len(passage_ids):
        twice = next(name for number, name in enumerate(passage_ids) if name in passage_ids[:number])
        raise ValueError(f"Passage ids must differ within one `add`, got {twice!r} twice. Drop or rename the others.")
    for name, payload in zip(passage_ids, payloads or (), strict=payloads is not None):
        _check_payload(name, payload)
    for name, tokens in zip(passage_ids, embeddings, strict=True):
        if tokens.dim() != 2 or (dim is not None and tokens.shape[1] != dim):
            raise ValueError(
                f"Passage {name!r}: expected embeddings (tokens, {dim or 'dim'}), got {tuple(tokens.shape)}. Encode with "
                "the model that the index was made with."
            )
        if not tokens.isfinite().all():
            raise ValueError(f"Passage {name!r}: its embeddings hold NaN or infinity. Choose another checkpoint.")


def check_search(query_embeddings: Sequence[Tensor], top_k: int, batch_size: int, dim: int) -> None:
    """Raise `ValueError` for a search that cannot be made."""
    for name, value in (("top_k", top_k), ("batch_size", batch_size)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value!r}. Leave it out for the default.")
    if isinstance(query_embeddings, Tensor):
        raise ValueError("Expected a list of query embeddings, got one tensor. Write [tokens].")
    for tokens in query_embeddings:
        shape = tuple(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
        if not isinstance(shape, tuple) or len(shape) != 2 or shape[1] != dim:
            raise ValueError(
                f"Expected query embeddings (tokens, {dim}), got {shape}. Encode with the model that the index was made with."
            )
        if not tokens.isfinite().all():
            raise ValueError("Query embeddings hold NaN or infinity. Choose another checkpoint.")


def check_ids(passage_ids: Sequence[str] | None) -> None:
    """Raise `ValueError` for one id in place of several: its letters would be taken for ids."""
    if isinstance(passage_ids, str):
        raise ValueError(f"Expected a list of passage ids, got the text {passage_ids!r}. Write [{passage_ids!r}].")


def _check_payload(name: str, payload: Any) -> None:
    # Now, for an index that holds it until the commit could not commit anything any more.
    try:
        if not isinstance(payload, Mapping) or not all(isinstance(key, str) for key in payload):
            raise TypeError(f"a {type(payload).__name__}, perhaps with keys that are no texts")
        json.dumps(dict(payload))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"Passage {name!r}: expected a payload that is a mapping of what JSON can hold, got another ({error}). Leave out "
            "or convert what is not."
        ) from error


def matches(payload: Mapping[str, Any], where: Filter) -> bool:
    """Return whether a payload passes a filter."""
    return all(key in payload and holds(payload[key], wanted) for key, wanted in where.items())


def holds(value: Any, wanted: Any) -> bool:
    """Return whether a payload's value, or a member of it, is what is wanted or among it."""
    values = value if isinstance(value, list | tuple) else [value]
    choices = list(wanted) if isinstance(wanted, list | tuple | set | frozenset) else [wanted]
    # True equals 1 in Python, and is no 1 to whoever filters.
    return any(one == other and isinstance(one, bool) == isinstance(other, bool) for one in values for other in choices)
