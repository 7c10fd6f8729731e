"""What Qdrant's two engines, in this process and in a cluster, have in common: points, filters, settings."""

import uuid
from collections.abc import Mapping
from typing import Any

from .protocol import Where

VECTOR = "tokens"
"""Name of the multi-vector. A passage without a token that scores has none, and is never found."""
ID_KEY, PAYLOAD_KEY, TRUTH_KEY = "passage_id", "payload", "truths"
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
        where: `{key: value}` or `{key: [values]}`, of texts, whole numbers and truth values.
        models: `qdrant_edge` or `qdrant_client.models`, which have the same classes.

    Raises:
        ValueError: for a value of another type, which Qdrant does not match.
    """
    if where is None:
        return None
    return models.Filter(must=[_any_of(key, wanted, models) for key, wanted in where.items()])


def _any_of(key: str, wanted: Any, models: Any) -> Any:
    values = list(wanted) if isinstance(wanted, list | tuple | set | frozenset) else [wanted]
    odd = next((value for value in values if not isinstance(value, str | int | bool)), None)
    if odd is not None or not values:
        raise ValueError(f"filter {key}: Qdrant matches texts, whole numbers, true and false, got {odd!r}.")
    return models.Filter(should=[_has(key, value, models) for value in values])


def _has(key: str, value: str | int | bool, models: Any) -> Any:
    place, text = (TRUTH_KEY, str(value)) if isinstance(value, bool) else (PAYLOAD_KEY, value)
    return models.FieldCondition(key=f"{place}.{key}", match=models.MatchValue(value=text))


def missing_extra(name: str) -> str:
    """Return what is said when a package is not installed."""
    return f"The Qdrant engines need {name}: `pip install drdecr[qdrant]`."
