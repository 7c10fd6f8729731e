"""Qdrant's engine inside this process (`qdrant-edge-py`): native MaxSim, a write-ahead log, one folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from .exact import Hits
from .manifest import write_whole
from .protocol import Where, check_batch
from .qdrant_common import ID_KEY, PAYLOAD_KEY, VECTOR, filter_of, missing_extra, point_id, point_payload
from .stored import check_search

PASSAGES_A_CALL = 256


class QdrantEdgeIndex:
    """A Qdrant shard as a `PassageIndex`. Every passage is scored, in half precision.

    What is added is searched at once and written by `commit`; of a process that is killed in between, any part of it may
    be there.
    """

    def __init__(self, shard: Any, dim: int, about: Mapping[str, Any] | None = None) -> None:
        self._shard, self.dim, self.about = shard, dim, dict(about or {})

    @classmethod
    def create(cls, folder: str | Path, dim: int, about: Mapping[str, Any] | None = None) -> "QdrantEdgeIndex":
        """Make an empty index of width `dim` in a new or empty folder; `about` is remembered.

        Raises:
            ImportError: without `qdrant-edge-py`.
            ValueError: if the folder holds something.
        """
        edge, folder = _edge(), Path(folder)
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(f"{folder}: expected a new or empty folder. Choose another, or open this index.")
        (folder / "shard").mkdir(parents=True)
        vectors = edge.EdgeVectorParams(
            size=dim,
            distance=edge.Distance.Dot,  # tokens have length 1; pooled ones too
            multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
            datatype=edge.VectorStorageDatatype.Float16,
        )
        shard = edge.EdgeShard.create(str(folder / "shard"), edge.EdgeConfig(vectors={VECTOR: vectors}))
        settings: dict[str, Any] = {"dim": dim, "about": dict(about or {})}
        write_whole(folder / "qdrant.json", lambda file: file.write(json.dumps(settings).encode()))
        return cls(shard, dim, about)

    @classmethod
    def open(cls, folder: str | Path) -> "QdrantEdgeIndex":
        """Open an index. `FileNotFoundError` if there is none."""
        settings = Path(folder) / "qdrant.json"
        if not settings.is_file():
            raise FileNotFoundError(f"{folder}: expected an index of Qdrant, found no qdrant.json. Create one.")
        return cls(_edge().EdgeShard.load(str(Path(folder) / "shard")), **json.loads(settings.read_text()))

    def __len__(self) -> int:
        return self._shard.count(_edge().CountRequest())

    def add(
        self,
        passage_ids: Sequence[str],
        embeddings: Sequence[Tensor],
        payloads: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Add passages; one whose id is there already takes its place."""
        edge = _edge()
        check_batch(passage_ids, embeddings, payloads, self.dim)
        points = [
            edge.Point(point_id(name), {VECTOR: tokens.tolist()} if len(tokens) else {}, point_payload(name, payload))
            for name, tokens, payload in zip(passage_ids, embeddings, payloads or [{}] * len(passage_ids), strict=True)
        ]
        for start in range(0, len(points), PASSAGES_A_CALL):
            self._shard.update(edge.UpdateOperation.upsert_points(points[start : start + PASSAGES_A_CALL]))

    def delete(self, passage_ids: Sequence[str] | None = None, where: Where | None = None) -> int:
        """Delete passages by id or by payload (or by both) and return how many."""
        if passage_ids is None and where is None:
            raise ValueError("delete: expected ids or a filter, got neither. To delete all, remove the folder.")
        edge, before = _edge(), len(self)
        ids = [point_id(name) for name in passage_ids or ()]
        if where is None:
            self._shard.update(edge.UpdateOperation.delete_points(ids))
        else:
            wanted = filter_of(where, edge)
            if passage_ids is not None:
                wanted = edge.Filter(must=[wanted, edge.HasIdCondition(ids)])
            self._shard.update(edge.UpdateOperation.delete_points_by_filter(wanted))
        return before - len(self)

    def commit(self) -> None:
        """Force everything to the disk."""
        self._shard.flush()

    def close(self) -> None:
        """Release the folder."""
        self._shard.close()

    def search(self, query_embeddings: list[Tensor], top_k: int = 10, where: Where | None = None) -> Hits:
        """Find the passages with the highest MaxSim; a query without a token finds nothing."""
        edge = _edge()
        check_search(query_embeddings, top_k, 1, self.dim)
        hits = Hits([], [])
        for tokens in query_embeddings:
            found = self._nearest(tokens, top_k, filter_of(where, edge)) if len(tokens) else []
            hits.document_ids.append([point.payload[ID_KEY] for point in found])
            hits.scores.append([point.score for point in found])
        return hits

    def _nearest(self, tokens: Tensor, top_k: int, wanted: Any) -> list[Any]:
        edge = _edge()
        return self._shard.query(
            edge.QueryRequest(
                limit=top_k,
                query=edge.Query.Nearest(tokens.tolist(), using=VECTOR),
                filter=wanted,
                with_payload=[ID_KEY],
                params=edge.SearchParams(exact=True),
            )
        )

    def payloads(self, passage_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return what was added with passages; `ValueError` for one that is not there."""
        records = self._shard.retrieve([point_id(name) for name in passage_ids], with_payload=True, with_vector=False)
        found = {record.payload[ID_KEY]: record.payload[PAYLOAD_KEY] for record in records}
        unknown = next((name for name in passage_ids if name not in found), None)
        if unknown is not None:
            raise ValueError(f"{unknown!r} is none of the {len(self)} passages. Look at the id.")
        return [found[name] for name in passage_ids]


def _edge() -> Any:
    try:
        import qdrant_edge
    except ImportError as error:
        raise ImportError(missing_extra("qdrant-edge-py")) from error
    return qdrant_edge
