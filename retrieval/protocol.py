"""What every engine of this package offers, so that one can take the place of another."""

import json
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

Filter: TypeAlias = Mapping[str, Any]
"""A filter on payloads, `{key: value}` or `{key: [values]}`: every key must have the value, or one of the values. A key
that holds a list has each of its members."""

MOST_FILTER_KEYS, MOST_FILTER_VALUES = 32, 10_000
"""Keys, and values of all keys together, that a filter may name: each costs time while others wait."""
LARGEST_NUMBER = 65_504.0
"""Of an embedding: the largest of half precision. Beyond it codecs write infinity, and scores become NaN."""


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
    """Passages that are searched by MaxSim: in memory, on disk or in Qdrant."""

    def __len__(self) -> int:
        """Return how many passages a search looks at."""
        ...

    def passage_ids(self) -> list[str]:
        """Return the ids of all passages."""
        ...

    def search(self, query_embeddings: list[Tensor], top_k: int = 10, where: Filter | None = None) -> Hits:
        """Find the passages with the highest MaxSim, best first."""
        ...

    def payloads(self, passage_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return what was added with passages."""
        ...


@runtime_checkable
class WritablePassageIndex(PassageIndex, Protocol):
    """An index that passages are added to and deleted from.

    Nothing that `add` or `delete` did is searched, or outlives the process, before `commit`. A class that keeps files has
    `create(folder, ...)` and `open(folder)` beside these.
    """

    def add(
        self,
        passage_ids: Sequence[str],
        embeddings: Sequence[Tensor],
        payloads: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Add passages; one whose id is in the index already takes its place."""
        ...

    def delete(self, passage_ids: Sequence[str] | None = None, where: Filter | None = None) -> int:
        """Delete passages by id or by payload and return how many."""
        ...

    def commit(self) -> None:
        """Make what was added and deleted lasting and searchable, all of it or nothing."""
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
            numbers that no codec holds, or a payload that is no mapping of what JSON can hold.
    """
    check_ids(passage_ids)
    for name, rows in (("ids", passage_ids), ("embeddings", embeddings), ("payloads", payloads or [])):
        if not isinstance(rows, Sequence | Tensor) or isinstance(rows, str):
            raise ValueError(f"add: expected a list of {name}, one for each passage, got {type(rows).__name__}.")
    counts = [len(passage_ids), len(embeddings), len(passage_ids) if payloads is None else len(payloads)]
    if len(set(counts)) > 1:
        raise ValueError(
            f"add: expected as many embeddings and payloads as ids, got {counts[0]} ids, {counts[1]} embeddings and "
            f"{counts[2]} payloads. Pass them in one order."
        )
    if len(set(passage_ids)) < len(passage_ids):
        twice = next(name for number, name in enumerate(passage_ids) if name in passage_ids[:number])
        raise ValueError(f"Passage ids must differ within one `add`, got {twice!r} twice. Drop or rename the others.")
    for name, payload in zip(passage_ids, payloads or (), strict=payloads is not None):
        # Now: an index with another one pending could not commit anything any more.
        check_json(f"Passage {name!r}: expected a payload", payload)
    for name, tokens in zip(passage_ids, embeddings, strict=True):
        _check_tokens(tokens, dim, f"Passage {name!r}")


def check_search(query_embeddings: Sequence[Tensor], top_k: int, batch_size: int, dim: int) -> None:
    """Raise `ValueError` for a search that cannot be made."""
    check_count("top_k", top_k)
    check_count("batch_size", batch_size)
    if isinstance(query_embeddings, Tensor) or not isinstance(query_embeddings, Sequence):
        kind = "one tensor" if isinstance(query_embeddings, Tensor) else type(query_embeddings).__name__
        raise ValueError(f"Expected a list of query embeddings, got {kind}. Write [tokens].")
    for number, tokens in enumerate(query_embeddings):
        _check_tokens(tokens, dim, f"Query {number}")


def _check_tokens(tokens: Any, dim: int | None, owner: str) -> None:
    """Raise `ValueError` for what is no embeddings `(tokens, dim)`, or holds numbers that no codec does."""
    is_tensor = isinstance(tokens, Tensor)
    shape = tuple(tokens.shape) if is_tensor else type(tokens).__name__
    if not is_tensor or tokens.dim() != 2 or (dim is not None and tokens.shape[1] != dim):
        raise ValueError(
            f"{owner}: expected embeddings (tokens, {dim or 'dim'}), got {shape}. Encode with the model that the "
            "index was made with."
        )
    if not tokens.is_floating_point() or tokens.layout != torch.strided:
        raise ValueError(f"{owner}: expected embeddings of a dense float type, got {tokens.dtype}, {tokens.layout}.")
    largest = tokens.detach().abs().max().item() if tokens.numel() else 0.0
    if not largest <= LARGEST_NUMBER:  # NaN is neither larger nor smaller
        raise ValueError(
            f"{owner}: expected embeddings of length 1, got NaN, infinity or numbers above {LARGEST_NUMBER:,.0f}, which half "
            "precision does not hold. Choose another checkpoint."
        )


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raise `ValueError` for what is no whole number of at least `least`; true is none."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}.")


def check_ids(passage_ids: Any) -> None:
    """Raise `ValueError` for what is no list of ids; of one text the letters would be taken for ids."""
    if isinstance(passage_ids, str):
        raise ValueError(f"Expected a list of passage ids, got the text {passage_ids!r}. Write [{passage_ids!r}].")
    if not isinstance(passage_ids, Collection) or isinstance(passage_ids, bytes | Mapping):
        raise ValueError(f"Expected a list of passage ids, got {type(passage_ids).__name__}.")
    odd = [name for name in passage_ids if not isinstance(name, str) or not name][:1]
    if odd:
        raise ValueError(f"Passage ids must be texts that are not empty, got {odd[0]!r}. Write str(id).")


def check_json(owner: str, value: Any) -> None:
    """Raise `ValueError` for what is no mapping of what JSON can hold."""
    try:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise TypeError(f"a {type(value).__name__}, perhaps with keys that are no texts")
        json.dumps(dict(value))
        value_key(value)  # what filters read of it
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{owner} that is a mapping of what JSON can hold, got another ({error}). Leave out or convert what is not."
        ) from error


def filter_values(where: Filter | None) -> dict[str, frozenset[Hashable]]:
    """Check a filter and return `{key: values of which a payload must have one}`, as `value_key` writes them.

    Raises:
        ValueError: for what is no mapping of texts to what JSON can hold, or more keys or values than a search allows.
    """
    if where is None:
        return {}
    if not isinstance(where, Mapping) or not all(isinstance(key, str) for key in where):
        raise ValueError(f"filter: expected {{key: value}} or {{key: [values]}}, got {where!r:.80}.")
    lists = {
        key: list(values) if isinstance(values, list | tuple | set | frozenset) else [values]
        for key, values in where.items()
    }
    num_values = sum(map(len, lists.values()))
    if len(lists) > MOST_FILTER_KEYS or num_values > MOST_FILTER_VALUES:
        raise ValueError(
            f"filter: expected at most {MOST_FILTER_KEYS} keys and {MOST_FILTER_VALUES:,} values, got {len(lists)} and "
            f"{num_values:,}. Ask for less at once."
        )
    try:
        return {key: frozenset(map(value_key, values)) for key, values in lists.items()}
    except (TypeError, RecursionError) as error:
        raise ValueError(f"filter: expected values that JSON can hold, got another ({error}).") from error


def value_key(value: Any) -> Hashable:
    """Return what stands for a payload's value in a set: 2 and 2.0 are one, 1 and true are two."""
    if isinstance(value, bool):
        return (bool, value)
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, list | tuple):
        return (list, *map(value_key, value))
    if isinstance(value, Mapping):
        return (dict, frozenset((key, value_key(inner)) for key, inner in value.items()))
    raise TypeError(f"a {type(value).__name__}")


def keys_of_value(value: Any) -> set[Hashable]:
    """Return what a filter may ask of a payload's value: the value, or each member of a list."""
    return set(map(value_key, value if isinstance(value, list | tuple) else [value]))


def matches(payload: Mapping[str, Any], values_by_key: Mapping[str, frozenset[Hashable]]) -> bool:
    """Return whether a payload passes a filter, as `filter_values` returns it."""
    return all(key in payload and keys_of_value(payload[key]) & values for key, values in values_by_key.items())
